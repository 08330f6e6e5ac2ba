// Hybrid decoders: Mamba-2, attention, MLP and experts are layers of their own, in the order of a pattern. What
// their families share between config.json, ArchSpec, the provider and the tensors' names, written once.
#pragma once

#include <vector>

#include "viaduct/config/model_config.h"
#include "viaduct/core/json.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// The whole decoder, multi-token prediction included. The order of its layers is `hybrid_override_pattern` (M
/// Mamba-2, * attention, - MLP, E experts) or `layers_block_type` (transformers 5). UserError for what Megatron's
/// hybrid layers cannot be: biases in places that have none, a convolution that is not 4 wide, a clamped time step.
ArchSpec read_hybrid_config(const HfConfig& config);
/// The members of config.json beside those of write_decoder_config; takes away what such models do not have.
void write_hybrid_config(const ArchSpec& arch, Json& config);

/// Fields beside those of set_decoder_provider, the class included.
void set_hybrid_provider(const ArchSpec& arch, config::ModelConfig& provider);
/// Layers, multi-token prediction and what else read_decoder_provider cannot know.
void read_hybrid_provider(const config::ModelConfig& provider, ArchSpec& arch);

/// The rows of all layers ("backbone.layers.*.mixer."), of multi-token prediction ("mtp.layers.*.", counted over
/// all depths) and of embedding, final norm and output layer.
std::vector<WeightRule> hybrid_rules();

}  // namespace viaduct::models
