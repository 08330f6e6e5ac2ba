// Staging: output is made beside its place and moved there in one step, so that it appears whole or not at all.
#pragma once

#include <string>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct::bridge {

struct StagingOptions {
  uint64_t plan_hash = 0;
  bool overwrite = false;
  bool resume = false;
};

class Staging {
 public:
  /// For one iteration below a checkpoint root: <root>/.viaduct-partial-<plan hash>, whose content `folder` and the
  /// files beside it are moved into the root, trackers (latest_*) last.
  static Staging for_iteration(const Path& root, const std::string& folder, const StagingOptions& options);
  /// For a whole folder: <parent>/.viaduct-partial-<name>-<plan hash>, which takes the folder's place.
  static Staging for_folder(const Path& folder, const StagingOptions& options);
  // Both throw a UserError when the target exists and `overwrite` is not set, when an interrupted run's staging is there
  // and neither `resume` nor `overwrite` is, or another process is at it.

  Staging(Staging&& other) noexcept;
  Staging& operator=(Staging&&) = delete;
  ~Staging();

  /// Where the output is to be written.
  const Path& path() const { return path_; }
  /// True when what an interrupted run left is to be completed.
  bool resumed() const { return resumed_; }
  /// Syncs everything and moves it into place.
  void commit();
  /// Removes the staging folder.
  void discard();

 private:
  Staging(Path target, std::string folder, Path path, const StagingOptions& options);
  void commit_iteration();
  void commit_folder();

  Path target_;
  std::string folder_;    // empty: the whole target
  Path path_;
  StagingOptions options_;
  bool resumed_ = false;
  int lock_ = -1;
};

}  // namespace viaduct::bridge
