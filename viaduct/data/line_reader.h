// Lines of several files as blocks for workers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct::data {

/// Where a reader stands: before a line.
struct LinePosition {
  size_t file = 0;
  uint64_t offset = 0;  // byte in that file
  int64_t line = 0;     // lines of that file before it
};

/// Whole lines of one file.
struct LineBlock {
  std::string text;    // the lines with their ends; the last one of a file may have none
  LinePosition begin;  // of the first line
  LinePosition end;    // behind the last one
};

/// Reads files one after another.
class LineReader {
 public:
  /// Begins at a position that a block of the same files had.
  LineReader(std::vector<Path> files, LinePosition begin);
  /// The next lines, about kBlockBytes of them and at least one; nullopt behind the last file.
  std::optional<LineBlock> next();
  /// Bytes of a block, where lines are shorter.
  static constexpr size_t kBlockBytes = 256 << 10;

 private:
  std::vector<Path> files_;
  LinePosition at_;
  File file_;
};

}  // namespace viaduct::data
