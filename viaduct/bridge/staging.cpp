#include "viaduct/bridge/staging.h"

#include <unistd.h>

#include <utility>

#include "viaduct/bridge/journal.h"
#include "viaduct/bridge/part_record.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

struct FolderLock {
  int fd;
  ~FolderLock() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

// Removes what interrupted runs of any plan left for this place, unless it is to be resumed.
void Staging::clear_left(const StagingOptions& options) {
  for (const Path& old : place_.staging_folders()) {
    // Of an old state that was just being removed nothing is wanted any more.
    if (old == path() && options.resume) continue;
    const FolderLock lock{lock_folder(old)};
    if (lock.fd < 0 || PartRecord::in_use(old)) throw_in_use(old);
    if (!is_old(old)) {
      VIADUCT_USER_CHECK(options.overwrite || !PartRecord::is_in(old),
                         "{} holds {} of a conversion into this place. Run the parts that are missing, or use "
                         "--overwrite to start anew without them",
                         old.string(), PartRecord::describe(old));
      VIADUCT_USER_CHECK(!options.resume || options.overwrite || old == path() || fs::exists(path()),
                         "{} is left of an interrupted run of another conversion than this one, so it cannot be "
                         "resumed. Use the same source and options, or --overwrite to start anew",
                         old.string());
      if (options.resume && !options.overwrite) continue;
      VIADUCT_USER_CHECK(options.overwrite,
                         "{} is left of an interrupted run. Use --resume to complete it, or "
                         "--overwrite to start anew",
                         old.string());
    }
    remove_tree(old);
  }
}

Staging::Staging(StagingPlace place, const StagingOptions& options) : place_(std::move(place)) {
  for (Path above = path().parent_path(); !fs::exists(above) && above.has_relative_path();
       above = above.parent_path())
    made_.insert(made_.begin(), above);
  try {
    with_system_errors([&] { open(options); });
  } catch (...) {
    if (lock_ >= 0) ::close(lock_);
    throw;
  }
}

void Staging::open(const StagingOptions& options) {
  if (options.resume && fs::is_directory(path())) {
    lock_ = lock_folder(path());
    if (lock_ < 0) throw_in_use(path());
    VIADUCT_USER_CHECK(!PartRecord::is_in(path()),
                       "{} holds {} of this conversion. Run the parts that are missing with --part, or use "
                       "--overwrite without --resume to start anew without them",
                       path().string(), PartRecord::describe(path()));
    place_.take_back();
  }
  place_.check_target(options);
  create_folder(path().parent_path());
  clear_left(options);
  create_folder(path());
  if (lock_ < 0) lock_ = lock_folder(path());
  if (lock_ < 0) throw_in_use(path());
  resumed_ = options.resume && fs::exists(path() / kJournalName);
  // Without a journal nothing in it can be trusted.
  if (resumed_) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(path())) remove_tree(entry.path());
}

Staging Staging::for_iteration(const Path& root, const std::string& folder, const StagingOptions& options) {
  return {StagingPlace::of_iteration(root, folder, options.plan_hash), options};
}

Staging Staging::for_folder(const Path& folder, const StagingOptions& options) {
  return {StagingPlace::of_folder(folder, options.plan_hash, false), options};
}

Staging::Staging(Staging&& other) noexcept
    : place_(std::move(other.place_)),
      made_(std::move(other.made_)),
      resumed_(other.resumed_),
      lock_(std::exchange(other.lock_, -1)) {}

Staging::~Staging() {
  if (lock_ >= 0) ::close(lock_);
}

void Staging::commit() {
  with_system_errors([this] {
    if (place_.moves_itself()) fs::remove(path() / kJournalName);
    place_.put_in_place();
    remove_tree(place_.set_aside());
  });
}

void Staging::discard() {
  remove_tree(path());
  for (size_t i = made_.size(); i-- > 0;) ::rmdir(made_[i].c_str());  // stops by itself at one that is not empty
}

}  // namespace viaduct::bridge
