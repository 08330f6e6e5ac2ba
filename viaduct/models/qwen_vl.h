// What Qwen's vision-language models have in common: token ids beside the text_config, the same fields of the
// provider for them, and Qwen3-VL's tower.
#pragma once

#include <string>
#include <string_view>

#include "viaduct/config/model_config.h"
#include "viaduct/models/decoder.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/vision_language.h"

namespace viaduct::models {

/// The language model: `text` is config.json's text_config, or config.json itself in the flat form. Whether
/// embeddings are tied stands in config.json alone; the type of the parameters in either.
ArchSpec read_qwen_vl_text(const HfConfig& config, const HfConfig& text, const DecoderDefaults& defaults);

/// Begin, end, image, video and vision tokens.
void set_token_ids(const HfConfig& config, const HfConfig& text, config::OptInt bos, config::OptInt eos,
                   config::ModelConfig& provider);
/// The other way: into config.json and its text_config.
void write_token_ids(const config::ModelConfig& provider, Json& config);

/// Qwen3-VL's tower from its vision_config; absent keys count as transformers' class has them. UserError naming the
/// key for what Megatron's tower cannot be.
VisionSpec read_qwen3_vision(const HfConfig& config, int64_t text_hidden_size);
/// The vision_config of a tower; `type`: its model_type.
Json qwen3_vision_json(const VisionSpec& vision, DType dtype, std::string_view type);

/// What Qwen3-VL, dense and with experts, needs for Family::set_provider, complete_provider, complete_config and
/// read_provider.
void set_qwen3_vl_provider(config::ModelConfig& provider);
void complete_qwen3_vl_provider(const HfConfig& config, const ArchSpec& arch, const TransformersClass& text,
                                std::string_view vision_target, config::ModelConfig& provider);
void complete_qwen3_vl_config(const config::ModelConfig& provider, Json& config);
void read_qwen3_vl_provider(const config::ModelConfig& provider, ArchSpec& arch);

/// The rows of the vision tower.
std::vector<WeightRule> qwen3_vision_rules();

}  // namespace viaduct::models
