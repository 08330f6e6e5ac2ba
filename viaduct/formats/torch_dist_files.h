// The small files beside the data of a Megatron checkpoint, byte for byte as upstream writes them.
#pragma once

#include <cstdint>
#include <string>

#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// common.pt as AutoBridge.import_ckpt writes it: checkpoint_version 3.0, iteration, content_metadata.
std::string common_state_file(int64_t iteration);

/// The same as Megatron-LM writes it: with its `args`, and without FLOPs counted.
std::string common_state_file(int64_t iteration, const PickleValue& args);

/// metadata.json of generation A, 119 bytes.
std::string torch_dist_metadata_json();

/// Megatron-Bridge's TrainState, the types of 0.6.
struct TrainState {
  int64_t step = 0;
  int64_t consumed_train_samples = 0;
  int64_t skipped_train_samples = 0;
  int64_t consumed_valid_samples = 0;
  float floating_point_operations_so_far = 0;
  bool do_train = false;
  bool do_valid = false;
  bool do_test = false;
};

/// train_state.pt; latest_train_state.pt is a copy of it.
std::string train_state_file(const TrainState& state);
/// Of a checkpoint without training: the step, all else zero.
std::string train_state_file(int64_t step);

/// The payload of an _extra_state entry without FP8 state: torch.save([torch.empty(0, dtype=torch.uint8)]). Every
/// call gives the same shared bytes.
SharedBytes empty_extra_state();

}  // namespace viaduct::formats
