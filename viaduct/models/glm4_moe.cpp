// GLM-4.5 and GLM-4.5-Air: half of each head rotated, biases on query, key and value, a sigmoid router, a shared
// expert, multi-token prediction.
#include "viaduct/models/glm4_moe.h"

#include "viaduct/models/family.h"

namespace viaduct::models {

ArchSpec read_glm4_moe_config(const HfConfig& config, const Glm4Defaults& defaults) {
  ArchSpec arch =
      read_decoder_config(config, {.norm_eps = 1e-5, .max_positions = defaults.max_positions, .kv_heads = 8});
  const Json* rope = config.has("rope_parameters") ? config.document().find("rope_parameters") : nullptr;
  if (!config.has("partial_rotary_factor") && !(rope && rope->contains("partial_rotary_factor")))
    arch.rope.rotary_percent = 0.5;
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qkv_bias = config.boolean_or("attention_bias", defaults.attention_bias);
    if (config.boolean_or("use_qk_norm", false)) layer.attention.qk_norm = QkNorm::kPerHead;
  }
  MoeSpec moe;
  moe.score = RouterScore::kSigmoid;
  moe.expert_bias = true;
  moe.aux_loss_coeff = 0.001;  // upstream's; the files have none that counts
  read_routed_layers(config, {.first_dense = 1, .groups = 1, .group_top_k = 1}, moe, arch);
  return arch;
}

void write_glm4_moe_config(const ArchSpec& arch, Json& config) {
  const AttentionSpec& attention = arch.layers[0].attention;
  write_routed_layers(arch, config);
  config.set("attention_bias", attention.qkv_bias);
  config.set("partial_rotary_factor", arch.rope.rotary_percent);
  config.set("use_qk_norm", attention.qk_norm == QkNorm::kPerHead);
}

void set_glm4_moe_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  set_routed_provider(arch, provider);
  provider.autocast_dtype = DType::kBF16;  // upstream's, also where the weights are not bf16
  provider.moe_router_bias_update_rate = config::Number(0);
  provider.mtp_loss_scaling_factor = config::Number(0.3);
}

namespace {

std::string fused_name(const ArchSpec& arch, std::string_view suffix) {
  size_t layer = 0;
  while (layer + 1 < arch.layers.size() && !arch.layers[layer].moe) ++layer;
  return fmt::format("layers.{}.mlp.experts.gate_up_proj{}", layer, suffix);
}

}  // namespace

bool has_fused_experts(const HfConfig&, const ArchSpec& arch, const TensorShapes& shapes) {
  const std::string name = fused_name(arch, "");
  return shapes("model." + name) || shapes("model.language_model." + name);
}

std::vector<WeightRule> fused_expert_rules() {
  const std::string mega = "decoder.layers.*.mlp.experts.", hf = "model.layers.*.mlp.experts.";
  return {
      fused_gate_and_up(mega + "linear_fc1.weight*", hf + "gate_up_proj", ExpertAxes::kOutIn),
      fused_expert(mega + "linear_fc2.weight*", hf + "down_proj", ExpertAxes::kOutIn),
  };
}

namespace {

ArchSpec read_config(const HfConfig& config) { return read_glm4_moe_config(config, {}); }

bool recognises(const config::ModelConfig& provider) {
  return (provider.target.find("GPTModelProvider") != std::string::npos && provider.num_moe_experts &&
          provider.layer_spec_name() == "get_gpt_decoder_block_spec" && provider.moe_router_enable_expert_bias) ||
         provider.target.find("GLM45ModelProvider") != std::string::npos ||
         provider.target.find("GLM45AirModelProvider") != std::string::npos ||
         provider.target.find("GLMMoEModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec&) {}

}  // namespace

Family glm4_moe_family() {
  return {
      .name = "glm4_moe",
      .title = "GLM-4.5, GLM-4.5-Air",
      .architecture = "Glm4MoeForCausalLM",
      .model_type = "glm4_moe",
      .toy_config = R"({"attention_bias": true, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "bfloat16", "first_k_dense_replace": 1, "head_dim": 32, "hidden_act": "silu", "hidden_size": 64,
        "initializer_range": 0.02, "intermediate_size": 160, "max_position_embeddings": 256,
        "moe_intermediate_size": 32, "n_group": 1, "n_routed_experts": 8, "n_shared_experts": 1,
        "norm_topk_prob": true, "num_attention_heads": 4, "num_experts_per_tok": 3, "num_hidden_layers": 4,
        "num_key_value_heads": 2, "num_nextn_predict_layers": 1, "pad_token_id": 0, "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default",
        "partial_rotary_factor": 0.5}, "routed_scaling_factor": 2.5, "tie_word_embeddings": false,
        "topk_group": 1, "use_cache": true, "use_qk_norm": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_glm4_moe_config,
      .set_provider = set_glm4_moe_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = routed_table({}),
      .sizes =
          {
              {"glm-4.5", "zai-org/GLM-4.5",
               R"({"hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
                   "num_hidden_layers": 92, "first_k_dense_replace": 3, "num_attention_heads": 96,
                   "num_key_value_heads": 8, "head_dim": 128, "n_routed_experts": 160, "num_experts_per_tok": 8,
                   "vocab_size": 151552, "max_position_embeddings": 131072})"},
              {"glm-4.5-air", "zai-org/GLM-4.5-Air",
               R"({"hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408,
                   "num_hidden_layers": 46, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
                   "n_routed_experts": 128, "num_experts_per_tok": 8, "routed_scaling_factor": 1.0,
                   "use_qk_norm": false, "vocab_size": 151552, "max_position_embeddings": 131072})"},
          },
      .other_forms = {{"fused experts", routed_table(fused_expert_rules()), has_fused_experts}},
      .sources = "safetensors (experts one by one or fused), pytorch_model*.bin, torch_dist",
  };
}

}  // namespace viaduct::models
