// OpenFiles: many files, of which only some are held open at a time.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct::bridge {

/// Thread-safe. A thousand shards do not need a thousand descriptors.
class OpenFiles {
 public:
  /// At most `most` files stay open beyond those that callers hold.
  OpenFiles(std::vector<Path> paths, File::Mode mode, size_t most = 64)
      : paths_(std::move(paths)), mode_(mode), most_(most) {}

  /// The number of files.
  size_t size() const { return paths_.size(); }
  /// The path of a file.
  const Path& path(uint32_t file) const { return paths_.at(file); }
  /// The file, opened when it is not; open as long as the pointer is held.
  std::shared_ptr<const File> get(uint32_t file);

 private:
  struct Open {
    std::shared_ptr<const File> file;
    std::list<uint32_t>::iterator place;
  };
  std::vector<Path> paths_;
  File::Mode mode_;
  size_t most_;
  std::mutex mutex_;
  std::list<uint32_t> recent_;  // the last one used first
  std::unordered_map<uint32_t, Open> open_;
};

}  // namespace viaduct::bridge
