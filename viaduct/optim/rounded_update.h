// Updates of tensors that are kept in less than what they are computed in.
#pragma once

#include <cstdint>

#include "viaduct/optim/update_rule.h"

namespace viaduct::optim {

/// `rule` for lists of any floating-point types, computed in the rule's own (float32; float64 for parameters in
/// it). What is kept in another type, such as moments in bfloat16, is converted for the computation and rounded
/// back, to nearest with ties to even: what TransformerEngine's FusedAdam does. Copies have at most `elements`
/// elements of each list at a time, so that they do not take the memory that the small type saves.
void update_rounded(const UpdateRule& rule, UpdateLists lists, const UpdateRates& rates,
                    int64_t elements = int64_t{1} << 24);

}  // namespace viaduct::optim
