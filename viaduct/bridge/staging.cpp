#include "viaduct/bridge/staging.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "viaduct/bridge/journal.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kPrefix = ".viaduct-partial-";
// In a staging folder: the number of the inode that is about to be moved into place.
constexpr const char* kCommitMark = "viaduct-commit";

bool is_empty_folder(const Path& path) {
  std::error_code error;
  return fs::is_directory(path, error) && fs::is_empty(path, error) && !error;
}

void remove_tree(const Path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw_system(fmt::format("cannot remove {}", path.string()), error.value());
}

void create_folder(const Path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw_system(fmt::format("cannot create the folder {}", path.string()), error.value());
}

// The standard library's own errors as this program's.
template <class Work>
void with_system_errors(Work&& work) {
  try {
    work();
  } catch (const fs::filesystem_error& error) {
    throw_system(fmt::format("cannot use {}", error.path1().string()), error.code().value());
  }
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
    if (entry.is_directory() && !entry.is_symlink()) sync_directory(entry.path());
  sync_directory(folder);
}

uint64_t inode_of(const Path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
}

bool is_tracker(const std::string& name) { return name.starts_with("latest_"); }

// An open, locked folder; -1 when another process holds it.
int lock_folder(const Path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_system(fmt::format("cannot open {}", path.string()));
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  const int error = errno;
  ::close(fd);
  // Some network file systems have no locks; then nobody can tell.
  if (error != EWOULDBLOCK) throw_system(fmt::format("cannot lock {}", path.string()), error);
  return -1;
}

struct FolderLock {
  int fd;
  ~FolderLock() { ::close(fd); }
};

[[noreturn]] void throw_in_use(const Path& path) {
  throw UserError(fmt::format(
      "{} is in use by another process, which writes to the same place. Wait until it is done", path.string()));
}

// `name` is `stem` and 16 digits of a hash, perhaps with "-old" behind them.
bool is_staging_name(std::string_view name, std::string_view stem) {
  if (!name.starts_with(stem)) return false;
  name.remove_prefix(stem.size());
  if (name.size() != 16 && !(name.size() == 20 && name.ends_with("-old"))) return false;
  return std::all_of(name.begin(), name.begin() + 16,
                     [](char c) { return ('0' <= c && c <= '9') || ('a' <= c && c <= 'f'); });
}

// What may be replaced as a whole: a folder that holds a checkpoint, never somebody's home.
bool looks_like_checkpoint(const Path& folder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    for (const std::string_view end : {".safetensors", ".safetensors.index.json", ".distcp"})
      if (name.ends_with(end)) return true;
    if (name == "config.json" || name == ".metadata" || name == "common.pt" || name == ".viaduct") return true;
    if (name.starts_with("pytorch_model")) return true;
  }
  return false;
}

bool lies_in(const Path& file, const Path& folder) {
  std::error_code error;
  const Path a = fs::weakly_canonical(file, error), b = fs::weakly_canonical(folder, error);
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).second == b.end();
}

}  // namespace

void Staging::check_place(const StagingOptions& options) const {
  const Path where = place();
  if (!fs::exists(where) || is_empty_folder(where)) return;
  VIADUCT_USER_CHECK(fs::is_directory(where), "{} exists and is not a folder", where.string());
  VIADUCT_USER_CHECK(options.overwrite, "{} exists already. Choose another place, or --overwrite to replace it",
                     where.string());
  VIADUCT_USER_CHECK(looks_like_checkpoint(where),
                     "{} holds no checkpoint, so it is not replaced. Choose another place, or remove it yourself",
                     where.string());
  for (const Path& file : options.keep)
    VIADUCT_USER_CHECK(!lies_in(file, where),
                       "{} cannot be replaced: it holds {}, which is read for it. Choose another place",
                       where.string(), file.string());
}

// Removes what interrupted runs of any plan left for this place, unless it is to be resumed.
void Staging::clear_left(const StagingOptions& options) {
  const std::string own = path_.filename().string();
  const std::string_view stem(own.data(), own.size() - 16);
  const Path parent = path_.parent_path();
  std::vector<Path> left;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent)) {
    const std::string name = entry.path().filename().string();
    // Of an old state that was just being removed nothing is wanted any more.
    if (is_staging_name(name, stem) && (name != own || !options.resume)) left.push_back(entry.path());
  }
  for (const Path& old : left) {
    const int lock = lock_folder(old);
    if (lock < 0) throw_in_use(old);
    const FolderLock release{lock};
    if (!old.filename().string().ends_with("-old")) {
      VIADUCT_USER_CHECK(!options.resume || options.overwrite || old == path_ || fs::exists(path_),
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

// An earlier run was stopped between its first and its last move: what it had moved comes back, to be moved again
// with all the rest.
void Staging::take_back() {
  const Path mark = path_ / kCommitMark;
  if (folder_.empty() || !fs::exists(mark)) return;
  const std::string text = read_text_file(mark, 64);
  uint64_t inode = 0;
  std::from_chars(text.data(), text.data() + text.size(), inode);
  const bool moved = inode != 0 && inode_of(place()) == inode;
  if (moved && fs::exists(path_ / folder_)) {
    exchange(place(), path_ / folder_);
  } else if (moved) {
    move(place(), path_ / folder_);
  }
  sync_directory(target_);
  fs::remove(mark);
}

Staging::Staging(Path target, std::string folder, const std::string& name, const StagingOptions& options)
    : target_(std::move(target)), folder_(std::move(folder)) {
  path_ = (folder_.empty() ? target_.parent_path() : target_) / name;
  for (Path above = path_.parent_path(); !fs::exists(above) && above.has_relative_path();
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
  if (options.resume && fs::is_directory(path_)) {
    lock_ = lock_folder(path_);
    if (lock_ < 0) throw_in_use(path_);
    take_back();
  }
  check_place(options);
  create_folder(path_.parent_path());
  clear_left(options);
  create_folder(path_);
  if (lock_ < 0) lock_ = lock_folder(path_);
  if (lock_ < 0) throw_in_use(path_);
  resumed_ = options.resume && fs::exists(path_ / kJournalName);
  // Without a journal nothing in it can be trusted.
  if (resumed_) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) remove_tree(entry.path());
}

Staging Staging::for_iteration(const Path& root, const std::string& folder, const StagingOptions& options) {
  VIADUCT_USER_CHECK(!fs::exists(root) || fs::is_directory(root), "{} is not a folder", root.string());
  return {root, folder, fmt::format("{}{:016x}", kPrefix, options.plan_hash), options};
}

Staging Staging::for_folder(const Path& folder, const StagingOptions& options) {
  VIADUCT_USER_CHECK(!fs::exists(folder) || fs::is_directory(folder), "{} is not a folder", folder.string());
  // A link to a folder stays: what it points to is replaced.
  Path target = fs::exists(folder) ? fs::canonical(folder) : fs::absolute(folder).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  const std::string name = fmt::format("{}{}-{:016x}", kPrefix, target.filename().string(), options.plan_hash);
  return {target, "", name, options};
}

Staging::Staging(Staging&& other) noexcept
    : target_(std::move(other.target_)),
      folder_(std::move(other.folder_)),
      path_(std::move(other.path_)),
      made_(std::move(other.made_)),
      resumed_(other.resumed_),
      lock_(std::exchange(other.lock_, -1)) {}

Staging::~Staging() {
  if (lock_ >= 0) ::close(lock_);
}

void Staging::move_into_place() {
  const Path from = folder_.empty() ? path_ : path_ / folder_;
  if (fs::exists(place()) && !is_empty_folder(place())) {
    exchange(from, place());
  } else {
    move(from, place());
  }
  sync_directory(place().parent_path());
}

void Staging::move_trackers() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    if (is_tracker(name)) names.push_back(name);
  }
  // latest_train_state.pt before latest_checkpointed_iteration.txt, which every tool reads.
  std::sort(names.begin(), names.end(), std::greater<>());
  for (const std::string& name : names) move(path_ / name, target_ / name);
  sync_directory(target_);
}

void Staging::commit() {
  with_system_errors([this] { move_all(); });
}

void Staging::move_all() {
  if (folder_.empty()) {
    fs::remove(path_ / kJournalName);
    sync_tree(path_);
    move_into_place();
    if (!fs::exists(path_)) return;
  } else {
    write_file(path_ / kCommitMark, std::to_string(inode_of(path_ / folder_)));
    sync_tree(path_);
    move_into_place();
    move_trackers();
  }
  // What is left here is the old state, or nothing: from now on it is only to be removed.
  Path old = path_;
  old += "-old";
  move(path_, old);
  remove_tree(old);
}

void Staging::discard() {
  remove_tree(path_);
  for (size_t i = made_.size(); i-- > 0;) ::rmdir(made_[i].c_str());  // stops by itself at one that is not empty
}

}  // namespace viaduct::bridge
