// GLM-4.5V: GLM-4.5-Air's language model behind a vision tower, which Megatron holds as transformers has it.
#include "viaduct/models/glm4_moe.h"
#include "viaduct/models/vision_language.h"

namespace viaduct::models {
namespace {

constexpr TransformersClass kVisionClass = {
    "transformers.models.glm4v_moe.configuration_glm4v_moe.Glm4vMoeVisionConfig",
    R"({"attention_bias": false, "attention_dropout": 0.0, "depth": 24, "hidden_act": "silu", "hidden_size": 1536,
        "image_size": 336, "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 13696,
        "model_type": "glm4v_moe_vision", "num_heads": 12, "out_hidden_size": 4096, "patch_size": 14,
        "rms_norm_eps": 1e-05, "spatial_merge_size": 2, "temporal_patch_size": 2})"};

// A size, or a list of equal sizes for height and width.
int64_t side(const HfConfig& vision, const char* key, int64_t fallback) {
  const std::vector<int64_t> sides = vision.integers(key);
  for (const int64_t each : sides)
    if (each != sides[0]) vision.fail(fmt::format("\"{}\" has different sides, which this model cannot have", key));
  return sides.empty() ? fallback : sides[0];
}

VisionSpec read_vision(const HfConfig& vision) {
  VisionSpec spec;
  spec.tower = VisionTower::kGlm4v;
  spec.num_layers = vision.integer_or("depth", 24);
  spec.hidden_size = vision.integer_or("hidden_size", 1536);
  set_heads(vision, "num_heads", 12, spec);
  spec.image_size = side(vision, "image_size", 336);
  spec.patch_size = side(vision, "patch_size", 14);
  spec.temporal_patch_size = side(vision, "temporal_patch_size", 2);
  spec.num_channels = vision.integer_or("in_channels", 3);
  spec.merge_size = vision.integer_or("spatial_merge_size", 2);
  spec.output_size = vision.integer_or("out_hidden_size", 4096);
  spec.ffn_hidden_size = spec.output_size;  // of the blocks; intermediate_size is the merger's
  spec.projector_ffn_size = vision.integer_or("intermediate_size", 13696);
  spec.attention_bias = vision.boolean_or("attention_bias", false);
  spec.norm_eps = vision.number_or("rms_norm_eps", 1e-5);
  if (spec.patch_size < 1) vision.fail(fmt::format("\"patch_size\" is {}", spec.patch_size));
  const int64_t grid = spec.image_size / spec.patch_size;
  if (grid < 1 || grid > 10000) vision.fail(fmt::format("\"image_size\" is {}", spec.image_size));
  spec.num_positions = grid * grid;
  return spec;
}

ArchSpec read_config(const HfConfig& config) {
  const HfConfig text = config.child("text_config");
  ArchSpec arch = read_glm4_moe_config(text, {.max_positions = 65536, .attention_bias = true});
  if (const auto dtype = text.dtype() ? text.dtype() : config.dtype()) arch.dtype = *dtype;
  arch.embedding.output_is_copy =
      config.boolean_or("tie_word_embeddings", text.boolean_or("tie_word_embeddings", false));
  arch.language_module = "language_model.";
  arch.mtp.reset();  // the model has none, whatever the language model's own configuration says
  if (arch.rope.mrope_section.empty()) arch.rope.mrope_section = {8, 12, 12};
  arch.vision = read_vision(config.child("vision_config"));
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  write_glm4_moe_config(arch, config);
  const VisionSpec& spec = arch.vision.value();
  Json vision = Json::parse(kVisionClass.defaults, kVisionClass.target);
  vision.set("attention_bias", spec.attention_bias);
  vision.set("depth", spec.num_layers);
  vision.set("hidden_size", spec.hidden_size);
  vision.set("image_size", spec.image_size);
  vision.set("in_channels", spec.num_channels);
  vision.set("intermediate_size", spec.projector_ffn_size);
  vision.set("num_heads", spec.num_heads);
  vision.set("out_hidden_size", spec.output_size);
  vision.set("patch_size", spec.patch_size);
  vision.set("rms_norm_eps", spec.norm_eps);
  vision.set("spatial_merge_size", spec.merge_size);
  vision.set("temporal_patch_size", spec.temporal_patch_size);
  Json text = config, whole = Json::object();
  for (const char* key : {"architectures", "dtype", "model_type", "tie_word_embeddings", "torch_dtype"})
    whole.set(key, config.at(key));
  text.erase("architectures");
  text.erase("num_nextn_predict_layers");
  text.set("model_type", "glm4v_moe_text");
  whole.set("text_config", std::move(text));
  whole.set("vision_config", std::move(vision));
  config = std::move(whole);
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  set_glm4_moe_provider(arch, provider);
  provider.target = "megatron.bridge.models.glm_vl.glm_45v_provider.GLM45VModelProvider";
  provider.make_vocab_size_divisible_by = 128;
  provider.moe_router_num_groups.reset();
  provider.moe_router_group_topk.reset();
  provider.mtp_num_layers = 0;
  provider.scatter_embedding_sequence_parallel = false;
}

struct TokenId {
  const char* key;
  int64_t config::ModelConfig::*field;
  int64_t usual;
};
constexpr TokenId kTokenIds[] = {
    {"image_end_token_id", &config::ModelConfig::image_end_token_id, 151340},
    {"image_start_token_id", &config::ModelConfig::image_start_token_id, 151339},
    {"image_token_id", &config::ModelConfig::image_token_id, 151363},
    {"video_end_token_id", &config::ModelConfig::video_end_token_id, 151342},
    {"video_start_token_id", &config::ModelConfig::video_start_token_id, 151341},
    {"video_token_id", &config::ModelConfig::video_token_id, 151364},
};

void complete_provider(const HfConfig& config, const ArchSpec&, config::ModelConfig& provider) {
  const HfConfig text = config.child("text_config");
  // Upstream looks for them in text_config, where the published file has them too.
  for (const TokenId& token : kTokenIds) provider.*token.field = text.integer_or(token.key, token.usual);
  provider.eos_token_id = token_ids(text, "eos_token_id", std::nullopt);
  provider.vision_config = transformers_object(kVisionClass, config.child("vision_config").document());
}

void complete_config(const config::ModelConfig& provider, Json& config) {
  for (const TokenId& token : kTokenIds) config.set(token.key, provider.*token.field);
}

bool recognises(const config::ModelConfig& provider) {
  return config::provider_bits(provider.target) == config::kGlm45v;
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  arch.language_module = "language_model.";
  arch.mtp.reset();
  arch.vision = read_vision(vision_config_of(provider));
  for (LayerSpec& layer : arch.layers)
    if (layer.moe) layer.moe->groups = layer.moe->group_top_k = 1;
}

// GLM-4.5's table inside of the larger model, and the tower under its own names.
WeightTable table_inside(const std::vector<WeightRule>& more) {
  WeightTable table;
  table.add(inside(routed_table(more).rules(), "language_model.", "model.", "model.language_model."))
      .subtree("visual.", "model.visual.")
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.language_model.embed_tokens.weight"});
  return table;
}

}  // namespace

Family glm4v_moe_family() {
  return {
      .name = "glm4v_moe",
      .title = "GLM-4.5V",
      .architecture = "Glm4vMoeForConditionalGeneration",
      .model_type = "glm4v_moe",
      .toy_config = R"({"dtype": "bfloat16", "image_end_token_id": 244, "image_start_token_id": 245,
        "image_token_id": 246, "text_config": {"attention_bias": true, "attention_dropout": 0.0,
        "dtype": "bfloat16", "eos_token_id": [2], "first_k_dense_replace": 1, "head_dim": 32, "hidden_act": "silu",
        "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160, "max_position_embeddings": 256,
        "model_type": "glm4v_moe_text", "moe_intermediate_size": 32, "n_group": 1, "n_routed_experts": 8,
        "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 4, "num_experts_per_tok": 3,
        "num_hidden_layers": 4, "num_key_value_heads": 2, "pad_token_id": 0, "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default",
        "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}, "routed_scaling_factor": 1.0,
        "tie_word_embeddings": false, "topk_group": 1, "use_cache": true, "use_qk_norm": false,
        "vocab_size": 256}, "tie_word_embeddings": false, "video_end_token_id": 247, "video_start_token_id": 248,
        "video_token_id": 249, "vision_config": {"attention_bias": false, "attention_dropout": 0.0, "depth": 2,
        "hidden_act": "silu", "hidden_size": 48, "image_size": 16, "in_channels": 3, "initializer_range": 0.02,
        "intermediate_size": 96, "model_type": "glm4v_moe_vision", "num_heads": 4, "out_hidden_size": 64,
        "patch_size": 4, "rms_norm_eps": 1e-05, "spatial_merge_size": 2, "temporal_patch_size": 2}})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = table_inside({}),
      .sizes =
          {
              {"glm-4.5v", "zai-org/GLM-4.5V",
               R"({"text_config": {"attention_bias": true, "first_k_dense_replace": 1, "head_dim": 128,
                   "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408,
                   "n_routed_experts": 128, "num_attention_heads": 96, "num_experts_per_tok": 8,
                   "num_hidden_layers": 46, "num_key_value_heads": 8, "rope_theta": 10000.0,
                   "use_qk_norm": false, "vocab_size": 151552}, "vision_config": {}})"},
          },
      .other_forms = {{"fused experts", table_inside(fused_expert_rules()), has_fused_experts}},
      .sources = "safetensors (experts one by one or fused), pytorch_model*.bin, torch_dist",
      .complete_provider = complete_provider,
      .complete_config = complete_config,
  };
}

}  // namespace viaduct::models
