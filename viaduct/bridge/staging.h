// Staging: output is made beside its place and moved there in one step, so that it appears whole or not at all.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/staging_place.h"

namespace viaduct::bridge {

/// The folder that output is written to. It is locked as long as this lives; what is neither committed nor
/// discarded stays for --resume.
class Staging {
 public:
  /// For one iteration below a checkpoint root: <root>/.viaduct-partial-<plan hash>, whose content `folder` and the
  /// trackers beside it (latest_*) are moved into the root, trackers last.
  static Staging for_iteration(const Path& root, const std::string& folder, const StagingOptions& options);
  /// For a whole folder: <parent>/.viaduct-partial-<name>-<plan hash>, which takes the folder's place.
  static Staging for_folder(const Path& folder, const StagingOptions& options);
  // Both throw a UserError when the target exists and `overwrite` is not set, when it is no folder of a checkpoint
  // or holds a file to keep, when an interrupted run's staging is there and neither `resume` nor `overwrite` is
  // set, when it is that of parts (part_staging.h) and is to be resumed, or when another process is at it.

  Staging(Staging&& other) noexcept;
  Staging& operator=(Staging&&) = delete;
  ~Staging();

  /// Where the output is to be written.
  const Path& path() const { return place_.path(); }
  /// True when what an interrupted run left is to be completed: the staging folder holds a journal.
  bool resumed() const { return resumed_; }
  /// Syncs the folders (files are synced by who writes them) and moves everything into place. The journal is
  /// removed.
  void commit();
  /// Removes the staging folder, and the folders above it that were made for it.
  void discard();

 private:
  Staging(StagingPlace place, const StagingOptions& options);
  void clear_left(const StagingOptions& options);
  void open(const StagingOptions& options);

  StagingPlace place_;
  std::vector<Path> made_;  // folders above it that were not there, outermost first
  bool resumed_ = false;
  int lock_ = -1;
};

}  // namespace viaduct::bridge
