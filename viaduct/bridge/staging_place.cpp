#include "viaduct/bridge/staging_place.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kPrefix = ".viaduct-partial-";
constexpr std::string_view kOld = "-old";
// In a staging folder: the number of the inode that is about to be moved into place.
constexpr const char* kCommitMark = "viaduct-commit";
// In a staging folder that holds more than what becomes of it: the folder that is made.
constexpr const char* kInside = "model";

bool is_empty_folder(const Path& path) {
  std::error_code error;
  return fs::is_directory(path, error) && fs::is_empty(path, error) && !error;
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
  aside += kOld;
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

// `name` is `stem` and 16 digits of a hash, perhaps with "-old" behind them.
bool is_staging_name(std::string_view name, std::string_view stem) {
  if (!name.starts_with(stem)) return false;
  name.remove_prefix(stem.size());
  if (name.size() != 16 && !(name.size() == 20 && name.ends_with(kOld))) return false;
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

bool is_old(const Path& staging) { return staging.filename().string().ends_with(kOld); }

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

int lock_folder(const Path& path, bool shared) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_system(fmt::format("cannot open {}", path.string()));
  if (::flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return fd;
  const int error = errno;
  ::close(fd);
  // Some network file systems have no locks: nobody can tell there whether another process writes.
  if (error != EWOULDBLOCK) throw_system(fmt::format("cannot lock {}", path.string()), error);
  return -1;
}

void throw_in_use(const Path& path) {
  throw UserError(fmt::format(
      "{} is in use by another process, which writes to the same place. Wait until it is done", path.string()));
}

StagingPlace::StagingPlace(Path target, std::string folder, const std::string& name, const std::string& inside)
    : target_(std::move(target)), folder_(std::move(folder)) {
  path_ = (folder_.empty() ? target_.parent_path() : target_) / name;
  content_ = inside.empty() ? path_ : path_ / inside;
}

StagingPlace StagingPlace::of_iteration(const Path& root, const std::string& folder, uint64_t plan_hash) {
  VIADUCT_USER_CHECK(!fs::exists(root) || fs::is_directory(root), "{} is not a folder", root.string());
  return {root, folder, fmt::format("{}{:016x}", kPrefix, plan_hash), ""};
}

StagingPlace StagingPlace::of_folder(const Path& folder, uint64_t plan_hash, bool beside) {
  VIADUCT_USER_CHECK(!fs::exists(folder) || fs::is_directory(folder), "{} is not a folder", folder.string());
  // A link to a folder stays: what it points to is replaced.
  Path target = fs::exists(folder) ? fs::canonical(folder) : fs::absolute(folder).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  const std::string name = fmt::format("{}{}-{:016x}", kPrefix, target.filename().string(), plan_hash);
  return {target, "", name, beside ? kInside : ""};
}

void StagingPlace::check_target(const StagingOptions& options) const {
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

std::vector<Path> StagingPlace::staging_folders() const {
  const std::string own = path_.filename().string();
  const std::string_view stem(own.data(), own.size() - 16);
  std::vector<Path> folders;
  if (!fs::exists(path_.parent_path())) return folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_.parent_path()))
    if (is_staging_name(entry.path().filename().string(), stem)) folders.push_back(entry.path());
  return folders;
}

bool StagingPlace::is_moved() const {
  const Path mark = path_ / kCommitMark;
  if (moves_itself() || !fs::exists(mark)) return false;
  const std::string text = read_text_file(mark, 64);
  uint64_t inode = 0;
  std::from_chars(text.data(), text.data() + text.size(), inode);
  return inode != 0 && inode_of(place()) == inode;
}

void StagingPlace::take_back() const {
  if (!fs::exists(path_ / kCommitMark)) return;
  if (is_moved() && fs::exists(made())) {
    exchange(place(), made());
  } else if (is_moved()) {
    move(place(), made());
  }
  sync_directory(place().parent_path());
  fs::remove(path_ / kCommitMark);
}

void StagingPlace::move_into_place() const {
  if (fs::exists(place()) && !is_empty_folder(place())) {
    exchange(made(), place());
  } else {
    move(made(), place());
  }
  sync_directory(place().parent_path());
}

void StagingPlace::finish_moving() const {
  if (folder_.empty()) return;
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

void StagingPlace::put_in_place() const {
  // Where other things lie in the staging folder too, a run that is stopped from here on is to be found out.
  if (!moves_itself()) write_file(path_ / kCommitMark, std::to_string(inode_of(made())));
  sync_tree(path_);
  move_into_place();
  finish_moving();
}

Path StagingPlace::set_aside() const {
  Path old = path_;
  old += kOld;
  if (fs::exists(path_)) {
    remove_tree(old);
    move(path_, old);
  }
  return old;
}

}  // namespace viaduct::bridge
