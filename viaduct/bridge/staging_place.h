// Where output is made and where it goes: the folders of a staging, whoever writes to it (staging.h,
// part_staging.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/core/file.h"

namespace viaduct::bridge {

/// What staging may do with what it finds.
struct StagingOptions {
  uint64_t plan_hash = 0;
  bool overwrite = false;
  bool resume = false;
  std::vector<Path> keep;  // files that must not be replaced: the source's
};

/// A target and the folder that it is made in. No lock is taken, and nothing made, by itself.
class StagingPlace {
 public:
  /// For one iteration below a checkpoint root: <root>/.viaduct-partial-<plan hash>.
  static StagingPlace of_iteration(const Path& root, const std::string& folder, uint64_t plan_hash);
  /// For a whole folder: <parent>/.viaduct-partial-<name>-<plan hash>; what becomes the folder is that itself, or
  /// with `beside` a folder in it, so that other files can lie there too.
  static StagingPlace of_folder(const Path& folder, uint64_t plan_hash, bool beside);
  // Both throw a UserError when the target is no folder.

  /// The staging folder.
  const Path& path() const { return path_; }
  /// The target is made as if it were this one.
  const Path& content() const { return content_; }
  /// The staging folder itself becomes the target, with all that is in it.
  bool moves_itself() const { return made() == path_; }

  /// UserError when something is at the target and `overwrite` is not set, when it is no checkpoint, or when it
  /// holds a file to keep.
  void check_target(const StagingOptions& options) const;
  /// The staging folders of any plan for this target, also those that were just being removed (is_old).
  std::vector<Path> staging_folders() const;

  /// An earlier run was stopped between its first and its last move: what it had moved comes back, to be moved
  /// again with all the rest.
  void take_back() const;
  /// Syncs the folders (files are synced by who writes them) and moves everything into place, trackers last.
  void put_in_place() const;
  /// An earlier run was stopped in put_in_place, or behind it: its data is in place. finish_moving() does the rest.
  bool is_moved() const;
  /// Moves the trackers of a checkpoint (latest_*), the last thing that is to be done; none for a whole folder.
  void finish_moving() const;
  /// Gives the staging folder, by then the old state or nothing, a name by which it is only to be removed; returns
  /// that.
  Path set_aside() const;

 private:
  StagingPlace(Path target, std::string folder, const std::string& name, const std::string& inside);
  /// What is moved, and to where.
  Path made() const { return folder_.empty() ? content_ : content_ / folder_; }
  Path place() const { return folder_.empty() ? target_ : target_ / folder_; }
  void move_into_place() const;

  Path target_;
  std::string folder_;  // empty: the whole target
  Path path_, content_;
};

/// Of a staging folder's path: its conversion is complete, and nothing in it is wanted any more.
bool is_old(const Path& staging);

/// Each throws a SystemError that names the folder.
void remove_tree(const Path& path);
void create_folder(const Path& path);

/// Opens and locks a folder for this process alone, or (`shared`) for all that do so with it; -1 when another
/// process holds it. The caller closes it.
int lock_folder(const Path& path, bool shared = false);
/// UserError: another process is at work in this folder.
[[noreturn]] void throw_in_use(const Path& path);

/// The standard library's own errors as this program's.
template <class Work>
void with_system_errors(Work&& work) {
  try {
    work();
  } catch (const std::filesystem::filesystem_error& error) {
    throw_system(fmt::format("cannot use {}", error.path1().string()), error.code().value());
  }
}

}  // namespace viaduct::bridge
