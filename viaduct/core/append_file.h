// AppendFile: bytes added at the end of a file through a buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct {

/// A file that grows at its end. Movable. What was not flushed is lost when it is destroyed.
class AppendFile {
 public:
  AppendFile() = default;
  /// Begins with the first `keep` bytes that the file has and cuts the rest; UserError when it has fewer.
  explicit AppendFile(const Path& path, uint64_t keep = 0);

  /// Adds bytes.
  void append(std::span<const std::byte> bytes);
  /// Adds the bytes of `value`.
  template <class T>
  void append_value(const T& value) {
    append(std::as_bytes(std::span(&value, 1)));
  }
  /// Bytes added so far, the `keep` of the beginning included.
  uint64_t size() const { return written_ + buffer_.size(); }
  /// The path of the file.
  const Path& path() const { return file_.path(); }
  /// Hands what is buffered to the kernel.
  void flush();
  /// flush, and fsync.
  void sync();
  /// sync, and close.
  void close();

 private:
  File file_;
  uint64_t written_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace viaduct
