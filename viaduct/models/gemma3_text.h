// Gemma 3's language model, which is a family of its own and the text side of the vision-language one.
#pragma once

#include <vector>

#include "viaduct/config/model_config.h"
#include "viaduct/core/json.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// A config.json of the text model, or the "text_config" of a larger one. UserError for what Megatron's Gemma 3
/// does not have: soft caps, attention in both directions, windows that are not on N of N + 1 layers.
ArchSpec read_gemma3_text(const HfConfig& config);
/// The members that write_decoder_config does not write or writes otherwise.
void write_gemma3_text(const ArchSpec& arch, Json& config);

/// Family::set_provider and Family::read_provider of the text model.
void set_gemma3_text_provider(const ArchSpec& arch, config::ModelConfig& provider);
void read_gemma3_text_provider(const config::ModelConfig& provider, ArchSpec& arch);

/// With Hugging Face names below "model.".
std::vector<WeightRule> gemma3_text_rules();

}  // namespace viaduct::models
