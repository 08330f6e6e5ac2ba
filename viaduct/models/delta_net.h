// The rows of gated DeltaNet layers.
#pragma once

#include <vector>

#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// Hugging Face's linear_attn.*: the projections of query, key, value and output gate in one tensor, those of beta
/// and alpha in another, key head by key head; the output norm a plain one, where Megatron's is gamma - 1.
std::vector<WeightRule> delta_net_rules();

}  // namespace viaduct::models
