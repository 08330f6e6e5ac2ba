// What GLM-4.5 and the language model of GLM-4.5V have in common.
#pragma once

#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"
#include "viaduct/models/routed_layers.h"

namespace viaduct::models {

/// What transformers assumes for keys that a config.json leaves out.
struct Glm4Defaults {
  int64_t max_positions = 131072;
  bool attention_bias = false;
};

/// Family::read_config, write_config and set_provider of the language model.
ArchSpec read_glm4_moe_config(const HfConfig& config, const Glm4Defaults& defaults);
void write_glm4_moe_config(const ArchSpec& arch, Json& config);
void set_glm4_moe_provider(const ArchSpec& arch, config::ModelConfig& provider);

/// Experts of a layer together in one tensor, [experts, 2 * size, hidden] and [experts, hidden, size].
std::vector<WeightRule> fused_expert_rules();
/// WeightForm::matches of that form.
bool has_fused_experts(const HfConfig& config, const ArchSpec& arch, const TensorShapes& shapes);

}  // namespace viaduct::models
