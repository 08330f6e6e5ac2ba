#include "viaduct/bridge/open_files.h"

namespace viaduct::bridge {

std::shared_ptr<const File> OpenFiles::get(uint32_t file) {
  const std::lock_guard lock(mutex_);
  if (const auto it = open_.find(file); it != open_.end()) {
    recent_.splice(recent_.begin(), recent_, it->second.place);
    return it->second.file;
  }
  auto opened = std::make_shared<const File>(File::open(paths_.at(file), mode_));
  if (open_.size() >= most_) {
    open_.erase(recent_.back());
    recent_.pop_back();
  }
  recent_.push_front(file);
  open_.emplace(file, Open{opened, recent_.begin()});
  return opened;
}

}  // namespace viaduct::bridge
