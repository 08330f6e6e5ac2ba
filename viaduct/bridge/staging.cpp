#include "viaduct/bridge/staging.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPrefix = ".viaduct-partial-";

bool is_empty_folder(const Path& path) { return fs::is_directory(path) && fs::is_empty(path); }

void create_folder(const Path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw_system(fmt::format("cannot create the folder {}", path.string()), error.value());
}

void move(const Path& from, const Path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw_system(fmt::format("cannot move {} to {}", from.string(), to.string()));
}

// Puts `from` in the place of `to`, which exists, in one step; `to`'s old content is then at `from`.
void exchange(const Path& from, const Path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) throw_system(fmt::format("cannot replace {}", to.string()));
  // A file system without the exchange: the old content steps aside first.
  Path aside = from;
  aside += "-old";
  move(to, aside);
  move(from, to);
  move(aside, from);
}

void sync_tree(const Path& folder) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_directory()) sync_directory(entry.path());
  sync_directory(folder);
}

bool is_tracker(const std::string& name) { return name.starts_with("latest_"); }

}  // namespace

Staging::Staging(Path target, std::string folder, Path path, const StagingOptions& options)
    : target_(std::move(target)), folder_(std::move(folder)), path_(std::move(path)), options_(options) {
  const Path final_place = folder_.empty() ? target_ : target_ / folder_;
  VIADUCT_USER_CHECK(options.overwrite || !fs::exists(final_place) || is_empty_folder(final_place),
                     "{} exists already. Choose another place, or --overwrite to replace it", final_place.string());
  // What an interrupted run of any plan for this target left.
  std::vector<Path> left;
  const std::string stem = path_.filename().string();
  const std::string common = stem.substr(0, stem.size() - 16);
  const Path parent = path_.parent_path();
  if (fs::is_directory(parent))
    for (const fs::directory_entry& entry : fs::directory_iterator(parent))
      if (entry.path().filename().string().starts_with(common)) left.push_back(entry.path());
  resumed_ = options.resume && fs::is_directory(path_);
  if (!resumed_ && !left.empty()) {
    VIADUCT_USER_CHECK(!options.resume, "{} is left of an interrupted run of another conversion than this one, so it "
                       "cannot be resumed. Use the same source and options, or --overwrite to start anew",
                       left[0].string());
    VIADUCT_USER_CHECK(options.overwrite, "{} is left of an interrupted run. Use --resume to complete it, or "
                       "--overwrite to start anew", left[0].string());
  }
  create_folder(path_);
  lock_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) throw_system(fmt::format("cannot open {}", path_.string()));
  VIADUCT_USER_CHECK(::flock(lock_, LOCK_EX | LOCK_NB) == 0, "{} is in use by another process", path_.string());
  if (resumed_) return;
  for (const Path& old : left)
    if (old != path_) fs::remove_all(old);
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) fs::remove_all(entry.path());
}

Staging Staging::for_iteration(const Path& root, const std::string& folder, const StagingOptions& options) {
  VIADUCT_USER_CHECK(!fs::exists(root) || fs::is_directory(root), "{} is not a folder", root.string());
  return {root, folder, root / fmt::format("{}{:016x}", kPrefix, options.plan_hash), options};
}

Staging Staging::for_folder(const Path& folder, const StagingOptions& options) {
  VIADUCT_USER_CHECK(!fs::exists(folder) || fs::is_directory(folder), "{} is not a folder", folder.string());
  Path target = fs::absolute(folder).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  const std::string name = fmt::format("{}{}-{:016x}", kPrefix, target.filename().string(), options.plan_hash);
  return {target, "", target.parent_path() / name, options};
}

Staging::Staging(Staging&& other) noexcept
    : target_(std::move(other.target_)),
      folder_(std::move(other.folder_)),
      path_(std::move(other.path_)),
      options_(other.options_),
      resumed_(other.resumed_),
      lock_(std::exchange(other.lock_, -1)) {}

Staging::~Staging() {
  if (lock_ >= 0) ::close(lock_);
}

void Staging::commit() {
  sync_tree(path_);
  if (folder_.empty()) {
    commit_folder();
  } else {
    commit_iteration();
  }
}

void Staging::commit_iteration() {
  const Path place = target_ / folder_;
  if (fs::exists(place) && !is_empty_folder(place)) {
    exchange(path_ / folder_, place);
  } else {
    move(path_ / folder_, place);
  }
  sync_directory(target_);
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    if (is_tracker(name)) names.push_back(name);
  }
  // The text tracker, which every tool reads, comes last.
  std::sort(names.begin(), names.end(), std::greater<>());
  for (const std::string& name : names) move(path_ / name, target_ / name);
  sync_directory(target_);
  fs::remove_all(path_);
}

void Staging::commit_folder() {
  const Path parent = target_.parent_path();
  if (fs::exists(target_) && !is_empty_folder(target_)) {
    exchange(path_, target_);
    sync_directory(parent);
    fs::remove_all(path_);
  } else {
    move(path_, target_);
    sync_directory(parent);
  }
}

void Staging::discard() { fs::remove_all(path_); }

}  // namespace viaduct::bridge
