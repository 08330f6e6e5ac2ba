// Qwen3-VL dense: Qwen3 behind a vision tower of Megatron's own layers, whose features also go into the first
// language layers (deepstack); positions of three axes.
#include "viaduct/models/family.h"
#include "viaduct/models/qwen_vl.h"

namespace viaduct::models {
namespace {

constexpr TransformersClass kText = {
    "transformers.models.qwen3_vl.configuration_qwen3_vl.Qwen3VLTextConfig",
    R"({"attention_bias": false, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 22016,
        "max_position_embeddings": 128000, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "pad_token_id": null, "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "use_cache": true,
        "vocab_size": 151936})"};
constexpr std::string_view kVision = "transformers.models.qwen3_vl.configuration_qwen3_vl.Qwen3VLVisionConfig";

ArchSpec read_config(const HfConfig& config) {
  const HfConfig text = config.child("text_config");
  ArchSpec arch = read_qwen_vl_text(
      config, text, {.rope_theta = 500000.0, .max_positions = 128000, .head_dim = 128, .kv_heads = 32});
  arch.rope.mrope_interleaved = true;
  if (arch.rope.mrope_section.empty()) arch.rope.mrope_section = {24, 20, 20};
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qk_norm = QkNorm::kPerHead;
    layer.attention.qkv_bias = layer.attention.output_bias = text.boolean_or("attention_bias", false);
  }
  arch.vision = read_qwen3_vision(config.child("vision_config"), arch.hidden_size);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  config.set("attention_bias", arch.layers[0].attention.qkv_bias);
  nest_text_config(config, "qwen3_vl_text");
  config.set("vision_config", qwen3_vision_json(*arch.vision, arch.dtype, "qwen3_vl_vision"));
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.qwen_vl.qwen3_vl_provider.Qwen3VLModelProvider";
  set_qwen3_vl_provider(provider);
}

void complete_provider(const HfConfig& config, const ArchSpec& arch, config::ModelConfig& provider) {
  set_token_ids(config, config.child("text_config"), 151643, 151645, provider);
  complete_qwen3_vl_provider(config, arch, kText, kVision, provider);
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("Qwen3VLModelProvider") != std::string::npos;
}

}  // namespace

Family qwen3_vl_family() {
  WeightTable weights;
  weights.add(inside(decoder_rules(), "language_model.", "model.", "model.language_model."))
      .add(qwen3_vision_rules())
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.language_model.embed_tokens.weight"});
  return {
      .name = "qwen3_vl",
      .title = "Qwen3-VL",
      .architecture = "Qwen3VLForConditionalGeneration",
      .model_type = "qwen3_vl",
      .toy_config = R"({"dtype": "bfloat16", "image_token_id": 251, "video_token_id": 252,
        "vision_start_token_id": 249, "vision_end_token_id": 250, "tie_word_embeddings": true,
        "text_config": {"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "dtype": "bfloat16",
          "eos_token_id": 2, "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
          "intermediate_size": 160, "max_position_embeddings": 256, "model_type": "qwen3_vl_text",
          "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2, "pad_token_id": null,
          "rms_norm_eps": 1e-06, "rope_parameters": {"mrope_interleaved": true, "mrope_section": [6, 5, 5],
          "rope_theta": 5000000.0, "rope_type": "default"}, "tie_word_embeddings": true, "use_cache": true,
          "vocab_size": 256},
        "vision_config": {"deepstack_visual_indexes": [0, 2], "depth": 3, "dtype": "bfloat16",
          "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32, "in_channels": 3, "initializer_range": 0.02,
          "intermediate_size": 56, "model_type": "qwen3_vl_vision", "num_heads": 2, "num_position_embeddings": 36,
          "out_hidden_size": 64, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_qwen3_vl_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct",
               R"({"tie_word_embeddings": true,
                   "text_config": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                     "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
                   "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
                     "out_hidden_size": 2048, "deepstack_visual_indexes": [5, 11, 17]}})"},
              {"qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct",
               R"({"tie_word_embeddings": true,
                   "text_config": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
                   "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
                     "out_hidden_size": 2560, "deepstack_visual_indexes": [5, 11, 17]}})"},
              {"qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct",
               R"({"tie_word_embeddings": false,
                   "text_config": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
                   "vision_config": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
                     "out_hidden_size": 4096, "deepstack_visual_indexes": [8, 16, 24]}})"},
              {"qwen3-vl-32b", "Qwen/Qwen3-VL-32B-Instruct",
               R"({"tie_word_embeddings": false,
                   "text_config": {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
                     "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
                   "vision_config": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
                     "out_hidden_size": 5120, "deepstack_visual_indexes": [8, 16, 24]}})"},
          },
      .complete_provider = complete_provider,
      .complete_config = complete_qwen3_vl_config,
  };
}

}  // namespace viaduct::models
