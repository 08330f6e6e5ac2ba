// What Qwen's vision-language models have in common: a text_config inside of config.json, token ids beside it, and
// the same fields of the provider for them.
#pragma once

#include <string>
#include <string_view>

#include "viaduct/config/model_config.h"
#include "viaduct/models/decoder.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/transformers_object.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// The language model: `text` is config.json's text_config, or config.json itself in the flat form. Whether
/// embeddings are tied stands in config.json alone; the type of the parameters in either.
ArchSpec read_qwen_vl_text(const HfConfig& config, const HfConfig& text, const DecoderDefaults& defaults);

/// Moves what write_decoder_config wrote into a text_config.
void nest_text_config(Json& config, std::string_view text_type);

/// A token id of config.json; `fallback` is what the class assumes for an absent key. null stays null.
config::OptInt token_id(const HfConfig& config, std::string_view key, config::OptInt fallback);
config::OptIntOrInts token_ids(const HfConfig& config, std::string_view key, config::OptInt fallback);

/// Begin, end, image, video and vision tokens.
void set_token_ids(const HfConfig& config, const HfConfig& text, config::OptInt bos, config::OptInt eos,
                   config::ModelConfig& provider);
void write_token_ids(const config::ModelConfig& provider, Json& config);

/// Sets the members of `object` that are not yet in `into`.
void add_missing(const Json& object, Json& into);

/// Qwen3-VL, dense and with experts.
VisionSpec read_qwen3_vision(const HfConfig& config, int64_t text_hidden_size);
Json qwen3_vision_json(const VisionSpec& vision, DType dtype, std::string_view type);
void set_qwen3_vl_provider(config::ModelConfig& provider);
void complete_qwen3_vl_provider(const HfConfig& config, const ArchSpec& arch, const TransformersClass& text,
                                std::string_view vision_target, config::ModelConfig& provider);
void complete_qwen3_vl_config(const config::ModelConfig& provider, Json& config);
void read_qwen3_vl_provider(const config::ModelConfig& provider, ArchSpec& arch);
/// The rows of the vision tower.
std::vector<WeightRule> qwen3_vision_rules();

}  // namespace viaduct::models
