// Saving a run: every rank writes what it alone has, at once; the first rank joins it to one checkpoint that
// appears whole or not at all.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "viaduct/training/state.h"
#include "viaduct/training/state_boxes.h"

namespace viaduct::training {

/// What is saved, and how.
struct SaveOptions {
  bool optimizer = true;  // optimizer and schedule too
  bool rng = true;        // random states too
  bool tokenizer = true;  // state.tokenizer_files too
  ReplicaWriters writers = ReplicaWriters::kShared;
  int files = 1;            // data files of each rank
  bool background = false;  // tensors are copied, and a thread writes them
};

/// A checkpoint on its way to the disk. Between start and finish training may go on, with `background`. An object
/// that is destroyed unfinished leaves a folder .viaduct-partial-* that no reader takes for a checkpoint and that
/// the next save removes.
class PendingSave {
 public:
  /// Iteration state.train_state.step below `root`: torch_dist (generation A) with model, optimizer in upstream's
  /// fully_reshardable form where it is sharded, schedule, random states, train_state.pt, run_config.yaml and the
  /// tokenizer's files. One of that iteration that is there is replaced. Collective. UserError on every rank for
  /// what goes wrong on one; then nothing of it is left.
  static std::unique_ptr<PendingSave> start(const GlobalState& state, const Path& root, const SaveOptions& options);
  ~PendingSave();
  PendingSave(const PendingSave&) = delete;
  PendingSave& operator=(const PendingSave&) = delete;

  /// Has this rank written its part?
  bool written() const;
  /// Waits until all ranks have, and puts the checkpoint into its place. Collective; errors as start.
  void finish();

  /// Which iteration it is of, and the folder above its own.
  int64_t iteration() const;
  /// As above.
  const Path& root() const;

 private:
  struct Work;
  explicit PendingSave(std::unique_ptr<Work> work);
  std::unique_ptr<Work> work_;
};

/// start and finish at once.
void save_checkpoint(const GlobalState& state, const Path& root, const SaveOptions& options = {});

/// Removes iterations below `root` that are not to be kept: of those before `newest`, all but the `most_recent_k`
/// newest (`newest` counts; below 1: none is removed for that) and, with `retain_interval`, its multiples.
/// `newest`, and what is no complete iteration, stays. Returns what was removed.
std::vector<Path> remove_old_iterations(const Path& root, int64_t newest, int64_t most_recent_k,
                                        std::optional<int64_t> retain_interval);

}  // namespace viaduct::training
