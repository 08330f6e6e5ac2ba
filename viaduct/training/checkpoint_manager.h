// CheckpointManager: when a run saves, where, and what of older checkpoints stays.
#pragma once

#include <chrono>
#include <memory>

#include "viaduct/config/config_container.h"

namespace viaduct::training {

struct GlobalState;
class PendingSave;

/// Saves by the section checkpoint. Every function is collective.
class CheckpointManager {
 public:
  /// checkpoint.save must be set; the section outlives the manager.
  explicit CheckpointManager(const config::CheckpointConfig& config);
  ~CheckpointManager();
  CheckpointManager(const CheckpointManager&) = delete;
  CheckpointManager& operator=(const CheckpointManager&) = delete;

  /// Saves the state as it is, unless this iteration is saved already. With async_save a thread writes while
  /// training goes on. UserError on all ranks for what goes wrong on one.
  void save(GlobalState& state);
  /// Puts a checkpoint in its place that all ranks have written meanwhile.
  void poll(GlobalState& state);
  /// The same, and waits for it.
  void finish(GlobalState& state);

 private:
  double seconds() const;  // since the last save began
  // What is saved goes into progress.txt, where there is one.
  void tell_progress(const GlobalState& state);

  const config::CheckpointConfig& config_;
  std::unique_ptr<PendingSave> pending_;
  std::chrono::steady_clock::time_point begin_;
  int64_t last_ = -1;  // the iteration that was saved last
};

}  // namespace viaduct::training
