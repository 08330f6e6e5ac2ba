// What vision-language models that come from transformers have in common: a text_config and a vision_config inside
// of config.json, token ids beside them, and two ways to name the modules.
#pragma once

#include <string_view>

#include "viaduct/config/model_config.h"
#include "viaduct/models/family.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/transformers_object.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// Moves what write_decoder_config wrote into a text_config.
void nest_text_config(Json& config, std::string_view text_type);

/// A token id of config.json; `fallback` is what the class assumes for an absent key. null stays null.
config::OptInt token_id(const HfConfig& config, std::string_view key, config::OptInt fallback);
/// The same for a key that may hold a list of ids.
config::OptIntOrInts token_ids(const HfConfig& config, std::string_view key, config::OptInt fallback);

/// Sets the members of `object` that are not yet in `into`.
void add_missing(const Json& object, Json& into);

/// The number of heads from `key` (without it `usual`) and their size. UserError when vision.hidden_size is no
/// multiple.
void set_heads(const HfConfig& config, std::string_view key, int64_t usual, VisionSpec& vision);

/// The vision_config that a provider keeps.
HfConfig vision_config_of(const config::ModelConfig& provider);

/// Names as the modules have them since transformers 4.52 (model.language_model. ...), which writes files with the
/// older ones (language_model.model. ...): WeightForm::matches, and the table for them.
bool has_module_names(const HfConfig& config, const ArchSpec& arch, const TensorShapes& shapes);
WeightTable with_module_names(const WeightTable& weights);

}  // namespace viaduct::models
