// MappedFile: a file as memory. For indexes that all processes of a machine read here and there; weights are never
// mapped.
#pragma once

#include <cstddef>
#include <span>

#include "viaduct/core/file.h"

namespace viaduct {

/// A whole file mapped for reading: its pages are the kernel's cache, which every process shares. Movable. A file
/// that is cut while it is mapped ends the process with SIGBUS, so only files that are replaced by renaming belong
/// here.
class MappedFile {
 public:
  MappedFile() = default;
  /// SystemError naming the path.
  explicit MappedFile(const Path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  /// All of the file; empty for an empty file.
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace viaduct
