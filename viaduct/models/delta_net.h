// Gated DeltaNet layers: their fields in config.json and in the provider, and their rows.
#pragma once

#include <vector>

#include "viaduct/config/model_config.h"
#include "viaduct/core/json.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// linear_num_key_heads and so on; the defaults are transformers'.
DeltaNetSpec read_delta_net(const HfConfig& config);
/// Sets the same members.
void write_delta_net(const DeltaNetSpec& net, Json& config);
/// Sets the provider's fields of the same names (linear_...).
void set_delta_net_provider(const DeltaNetSpec& net, config::ModelConfig& provider);
/// The provider's fields as a DeltaNetSpec.
DeltaNetSpec read_delta_net_provider(const config::ModelConfig& provider);

/// Hugging Face's linear_attn.*: the projections of query, key, value and output gate in one tensor, those of beta
/// and alpha in another, key head by key head; the output norm a plain one, where Megatron's is gamma - 1.
std::vector<WeightRule> delta_net_rules();

}  // namespace viaduct::models
