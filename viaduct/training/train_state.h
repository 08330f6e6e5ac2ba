// How far a run has come.
#pragma once

#include <cstdint>

namespace viaduct::training {

/// Upstream's TrainState, what a checkpoint's train_state.pt holds.
struct TrainState {
  int64_t step = 0;  // iterations that were trained
  int64_t consumed_train_samples = 0;
  int64_t skipped_train_samples = 0;
  int64_t consumed_valid_samples = 0;
  double floating_point_operations_so_far = 0;
};

}  // namespace viaduct::training
