// Qwen2.5-VL: Qwen2 behind transformers' own vision tower, which Megatron holds as it is; positions of three axes.
#include "viaduct/models/family.h"
#include "viaduct/models/qwen_vl.h"

namespace viaduct::models {
namespace {

constexpr TransformersClass kVision = {
    "transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig",
    R"({"depth": 32, "fullatt_block_indexes": [7, 15, 23, 31], "hidden_act": "silu", "hidden_size": 3584,
        "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "tokens_per_second": 4, "window_size": 112})"};

// The language model's part: public files have it in config.json itself.
HfConfig text_of(const HfConfig& config) {
  return config.has("text_config") ? config.child("text_config") : config;
}

VisionSpec read_vision(const HfConfig& config, int64_t text_hidden_size) {
  VisionSpec vision;
  vision.tower = VisionTower::kQwen25;
  vision.num_layers = config.integer_or("depth", 32);
  vision.hidden_size = config.integer_or("hidden_size", 3584);
  vision.ffn_hidden_size = config.integer_or("intermediate_size", 3420);
  set_heads(config, "num_heads", 16, vision);
  vision.patch_size = config.integer_or("patch_size", 14);
  vision.temporal_patch_size = config.integer_or("temporal_patch_size", 2);
  vision.num_channels = config.integer_or("in_channels", 3);
  vision.merge_size = config.integer_or("spatial_merge_size", 2);
  vision.output_size = config.integer_or("out_hidden_size", 3584);
  if (vision.output_size != text_hidden_size)
    config.fail(fmt::format("\"out_hidden_size\" is {}, but the language model's \"hidden_size\" is {}",
                            vision.output_size, text_hidden_size));
  vision.attention_bias = vision.projector_bias = true;
  vision.full_attention_layers = {7, 15, 23, 31};
  if (config.has("fullatt_block_indexes")) vision.full_attention_layers = config.integers("fullatt_block_indexes");
  return vision;
}

ArchSpec read_config(const HfConfig& config) {
  const HfConfig text = text_of(config);
  ArchSpec arch = read_qwen_vl_text(
      config, text, {.norm_eps = 1e-5, .rope_theta = 1000000.0, .max_positions = 32768, .kv_heads = 8});
  if (arch.rope.mrope_section.empty()) arch.rope.mrope_section = {16, 24, 24};
  for (LayerSpec& layer : arch.layers) layer.attention.qkv_bias = true;
  if (text.boolean_or("use_sliding_window", false)) {
    const int64_t first = text.integer_or("max_window_layers", 80);
    set_windows(text, arch, text.integer_or("sliding_window", 4096),
                [first](size_t layer) { return static_cast<int64_t>(layer) >= first; });
  }
  arch.vision = read_vision(config.child("vision_config"), arch.hidden_size);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  Json types = Json::array();
  std::optional<int64_t> window;
  for (const LayerSpec& layer : arch.layers) {
    types.items().push_back(layer.attention.window ? "sliding_attention" : "full_attention");
    if (layer.attention.window) window = layer.attention.window;
  }
  config.set("layer_types", std::move(types));
  config.set("sliding_window", window ? Json(*window) : Json());
  config.set("use_sliding_window", window.has_value());
  nest_text_config(config, "qwen2_5_vl_text");
  const VisionSpec& vision = *arch.vision;
  Json tower = Json::object();
  tower.set("depth", vision.num_layers);
  Json full = Json::array();
  for (const int64_t layer : vision.full_attention_layers) full.items().push_back(Json(layer));
  tower.set("fullatt_block_indexes", std::move(full));
  tower.set("hidden_act", "silu");
  tower.set("hidden_size", vision.hidden_size);
  tower.set("in_channels", vision.num_channels);
  tower.set("in_chans", vision.num_channels);  // transformers 4
  tower.set("intermediate_size", vision.ffn_hidden_size);
  tower.set("model_type", "qwen2_5_vl_vision");
  tower.set("num_heads", vision.num_heads);
  tower.set("out_hidden_size", vision.output_size);
  tower.set("patch_size", vision.patch_size);
  tower.set("spatial_merge_size", vision.merge_size);
  tower.set("temporal_patch_size", vision.temporal_patch_size);
  config.set("vision_config", std::move(tower));
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.qwen_vl.qwen25_vl_provider.Qwen25VLModelProvider";
  provider.scatter_embedding_sequence_parallel = false;
}

void complete_provider(const HfConfig& config, const ArchSpec&, config::ModelConfig& provider) {
  set_token_ids(config, text_of(config), 151643, 151645, provider);
  provider.vision_token_id = config.integer_or("vision_token_id", 151654);
  provider.vision_config = transformers_object(kVision, config.child("vision_config").document());
}

void complete_config(const config::ModelConfig& provider, Json& config) {
  write_token_ids(provider, config);
  config.set("vision_token_id", provider.vision_token_id);
  add_missing(transformers_values(provider.vision_config), *config.find("vision_config"));
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("Qwen25VLModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  arch.language_module = "language_model.";
  arch.vision = read_vision(vision_config_of(provider), arch.hidden_size);
}

}  // namespace

Family qwen25_vl_family() {
  WeightTable weights;
  weights.add(inside(decoder_rules(), "language_model."))
      .subtree("visual.", "visual.")
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  WeightTable module_names = weights.renamed({{"model.", "model.language_model."}, {"visual.", "model.visual."}});
  return {
      .name = "qwen25_vl",
      .title = "Qwen2.5-VL",
      .architecture = "Qwen2_5_VLForConditionalGeneration",
      .model_type = "qwen2_5_vl",
      .toy_config = R"({"dtype": "bfloat16", "image_token_id": 251, "video_token_id": 252,
        "vision_start_token_id": 249, "vision_end_token_id": 250, "tie_word_embeddings": false,
        "text_config": {"attention_dropout": 0.0, "bos_token_id": 1, "dtype": "bfloat16", "eos_token_id": 2,
          "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160,
          "max_position_embeddings": 256, "max_window_layers": 80, "model_type": "qwen2_5_vl_text",
          "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2, "pad_token_id": null,
          "rms_norm_eps": 1e-06, "rope_parameters": {"mrope_section": [2, 3, 3], "rope_theta": 1000000.0,
          "rope_type": "default"}, "sliding_window": null, "tie_word_embeddings": false, "use_cache": true,
          "use_sliding_window": false, "vocab_size": 256},
        "vision_config": {"depth": 4, "dtype": "bfloat16", "fullatt_block_indexes": [1, 3], "hidden_act": "silu",
          "hidden_size": 32, "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 56,
          "model_type": "qwen2_5_vl_vision", "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
          "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 16}})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct",
               R"({"tie_word_embeddings": true,
                   "text_config": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
                     "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936},
                   "vision_config": {"hidden_size": 1280, "out_hidden_size": 2048}})"},
              {"qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct",
               R"({"text_config": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                     "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
                   "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584}})"},
              {"qwen2.5-vl-32b", "Qwen/Qwen2.5-VL-32B-Instruct",
               R"({"text_config": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
                     "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064},
                   "vision_config": {"hidden_size": 1280, "intermediate_size": 3456, "out_hidden_size": 5120}})"},
              {"qwen2.5-vl-72b", "Qwen/Qwen2.5-VL-72B-Instruct",
               R"({"text_config": {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
                     "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064},
                   "vision_config": {"hidden_size": 1280, "intermediate_size": 3456, "out_hidden_size": 8192}})"},
          },
      .other_forms = {{"transformers' module names", std::move(module_names), has_module_names}},
      .sources = "safetensors, pytorch_model*.bin, torch_dist; config.json flat or with a text_config",
      .complete_provider = complete_provider,
      .complete_config = complete_config,
  };
}

}  // namespace viaduct::models
