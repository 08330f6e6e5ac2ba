// Copies what a Move says from loaded source blocks into a target buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "viaduct/bridge/move.h"

namespace viaduct::bridge {

/// A stretch of a source file in memory.
struct LoadedRange {
  uint32_t file = 0;
  uint64_t begin = 0;  // in the file
  uint64_t end = 0;
  const std::byte* data = nullptr;
};

/// Source bytes that a job holds: ranges sorted by (file, begin).
class SourceView {
 public:
  /// Forgets all ranges.
  void clear() { ranges_.clear(), last_ = 0; }
  /// In rising order.
  void add(const LoadedRange& range) { ranges_.push_back(range); }

  /// Copies [offset, offset + to.size()) of a file, which may lie in several ranges that follow each other.
  void copy(uint32_t file, uint64_t offset, std::span<std::byte> to);
  /// The bytes where they lie, or, when they lie in several ranges, a copy of them in `scratch`.
  const std::byte* at(uint32_t file, uint64_t offset, size_t size, std::byte* scratch);

 private:
  const LoadedRange& find(uint32_t file, uint64_t offset);

  std::vector<LoadedRange> ranges_;
  size_t last_ = 0;  // the range that was asked for last
};

/// Buffers that copying needs, one a thread.
class CopyScratch {
 public:
  /// The size of each buffer.
  static constexpr size_t kBytes = 64u << 10;
  /// Three buffers of kBytes.
  CopyScratch() : memory_(std::make_unique<std::byte[]>(3 * kBytes)) {}
  std::byte* lines() { return memory_.get(); }                   // of source bytes that lie in two ranges
  std::byte* gathered() { return memory_.get() + kBytes; }       // elements side by side
  std::byte* converted() { return memory_.get() + 2 * kBytes; }  // elements in the target's type

 private:
  std::unique_ptr<std::byte[]> memory_;
};

/// Writes the move's bytes; `out` is where byte 0 of the target chunk would lie. Returns the number of bytes
/// written. Not thread-safe for one view or scratch.
uint64_t copy_move(const Move& move, SourceView& source, CopyScratch& scratch, std::byte* out);

}  // namespace viaduct::bridge
