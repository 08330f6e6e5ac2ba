// JsonlFile: the lines of a JSONL file by their number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/core/json.h"

namespace viaduct::data {

/// A file of one JSON object a line. Opening reads it once, front to back; then any line can be read, so that a run
/// resumes where it was. Where lines begin is kept for at most 2^20 of them (8 MiB), evenly spread. Does not change
/// once opened; several threads may read. Empty lines at the end are no lines.
class JsonlFile {
 public:
  /// SystemError when the file cannot be read, UserError when it has no line.
  explicit JsonlFile(const Path& path);

  /// Number of lines.
  int64_t size() const { return size_; }
  /// Line `i`, counted from 0. UserError naming file and line for one that is no JSON object, or that there is not.
  Json line(int64_t i) const;
  /// The text of line `i`, without its end.
  std::string text(int64_t i) const;
  /// "<file>: line <i + 1>", for messages.
  std::string place(int64_t i) const;
  /// The file.
  const Path& path() const { return file_.path(); }

 private:
  File file_;
  uint64_t bytes_ = 0;
  int64_t size_ = 0;
  int shift_ = 0;                 // every 2^shift_-th line is in begins_
  std::vector<uint64_t> begins_;  // bytes
};

}  // namespace viaduct::data
