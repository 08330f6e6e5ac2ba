// EdgeBuffer: the small pieces of a target that do not fill pages of their own, kept until many can be written at
// once.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

namespace viaduct::bridge {

/// Direct and buffered writes to one file wait for each other in the kernel, so the few bytes at the edges of the
/// direct ones are collected, and pieces that touch are written together. Thread-safe.
class EdgeBuffer {
 public:
  /// Writes bytes at an offset of a file; called by one thread at a time.
  using Write = std::function<void(uint32_t file, uint64_t offset, std::span<const std::byte> bytes)>;
  /// Bytes that are collected before they are written.
  static constexpr size_t kBytes = 1u << 20;

  /// `write` gets all bytes in the end.
  explicit EdgeBuffer(Write write) : write_(std::move(write)) {}

  /// At most kBytes.
  void add(uint32_t file, uint64_t offset, std::span<const std::byte> bytes);
  /// Writes what is still kept. To be called before the files are complete.
  void flush();

 private:
  struct Piece {
    uint32_t file;
    uint32_t size;
    uint64_t offset;
    uint64_t at;  // in bytes
  };
  struct Batch {
    std::vector<Piece> pieces;
    std::vector<std::byte> bytes;
  };
  void write_out(Batch& batch);

  Write write_;
  std::mutex mutex_;  // of filling_
  Batch filling_;
  std::mutex writing_mutex_;  // of writing_: one batch at a time, so that memory is bounded
  Batch writing_;
  std::vector<std::byte> run_;
};

}  // namespace viaduct::bridge
