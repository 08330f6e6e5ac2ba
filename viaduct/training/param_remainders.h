// Main parameters of which a checkpoint has only the bits that the bfloat16 parameters lack: what upstream writes
// with optimizer.store_param_remainders.
#pragma once

#include <string_view>
#include <vector>

#include "viaduct/formats/tensor_io.h"
#include "viaduct/training/state_boxes.h"

namespace viaduct::training {

/// Boxes of float32 main parameters (keys begin with `main_prefix`) whose stored tensor is of remainders are turned
/// to the weights' own tensor. Returned are boxes for reading the remainders afterwards, into the lower halves of
/// the same values; then comes undo_rounding() of each.
std::vector<StateBox> remainder_boxes(std::vector<StateBox>& boxes,
                                      const std::vector<formats::StoredTensor>& stored,
                                      std::string_view main_prefix);

/// The last step for a box that remainder_boxes() returned: TransformerEngine's FusedAdam has rounded the upper
/// half up where the highest bit of the lower one is set.
void undo_rounding(const StateBox& remainders);

}  // namespace viaduct::training
