// DeepSeek V3 and R1, and Moonlight, which has the same class: latent attention, a sigmoid router with a bias for
// the choice, shared experts, multi-token prediction.
#include "viaduct/models/family.h"
#include "viaduct/models/latent_attention.h"
#include "viaduct/models/routed_layers.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_latent_config(config, {.max_positions = 4096});
  MoeSpec moe;
  moe.score = RouterScore::kSigmoid;
  moe.expert_bias = true;
  moe.softmax_before_top_k = true;
  moe.aux_loss_coeff = config.number_or("aux_loss_alpha", 0.0001);  // upstream's, where the file says nothing
  read_routed_layers(config, {.first_dense = 3, .groups = 8, .group_top_k = 4, .scaling_factor = 2.5}, moe, arch);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  write_latent_config(arch, config);
  write_routed_layers(arch, config);
  const LayerSpec* routed = arch.moe_layer();
  config.set("aux_loss_alpha", routed ? routed->moe->aux_loss_coeff : 0.0);
  config.set("scoring_func", "sigmoid");  // these two are what inference engines go by
  config.set("topk_method", "noaux_tc");
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  set_routed_provider(arch, provider);
  set_latent_provider(1280, provider);
}

bool recognises(const config::ModelConfig& provider) {
  return is_latent_provider(provider) && (provider.moe_router_score_function == "sigmoid" ||
                                          provider.target.find("DeepSeekV3") != std::string::npos ||
                                          provider.target.find("Moonlight") != std::string::npos);
}

void read_provider(const config::ModelConfig&, ArchSpec&) {}

}  // namespace

Family deepseek_v3_family() {
  return {
      .name = "deepseek_v3",
      .title = "DeepSeek V3, R1; Moonlight",
      .architecture = "DeepseekV3ForCausalLM",
      .model_type = "deepseek_v3",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "aux_loss_alpha": 0.0001,
        "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16", "first_k_dense_replace": 1, "head_dim": 16,
        "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160,
        "kv_lora_rank": 32, "max_position_embeddings": 640, "moe_intermediate_size": 32, "n_group": 4,
        "n_routed_experts": 8, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 4,
        "num_experts_per_tok": 4, "num_hidden_layers": 4, "num_key_value_heads": 4, "num_nextn_predict_layers": 1,
        "q_lora_rank": 48, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "rms_norm_eps": 1e-06,
        "rope_interleave": true, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 40.0,
        "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
        "mscale_all_dim": 1.0}, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
        "tie_word_embeddings": false, "topk_group": 2, "topk_method": "noaux_tc", "use_cache": true,
        "v_head_dim": 32, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = routed_table(latent_attention_rules()),
      .sizes =
          {
              {"deepseek-v3", "deepseek-ai/DeepSeek-V3",
               R"({"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
                   "num_hidden_layers": 61, "first_k_dense_replace": 3, "num_attention_heads": 128,
                   "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
                   "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
                   "n_group": 8, "topk_group": 4, "vocab_size": 129280, "max_position_embeddings": 163840,
                   "rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 40.0,
                   "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
                   "mscale_all_dim": 1.0}})"},
              {"moonlight-16b-a3b", "moonshotai/Moonlight-16B-A3B",
               R"({"hidden_size": 2048, "intermediate_size": 11264, "moe_intermediate_size": 1408,
                   "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16,
                   "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                   "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
                   "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0, "routed_scaling_factor": 2.446,
                   "aux_loss_alpha": 0.001, "rms_norm_eps": 1e-05, "vocab_size": 163840,
                   "max_position_embeddings": 8192,
                   "rope_parameters": {"rope_theta": 50000.0, "rope_type": "default"}})"},
          },
      .sources = "safetensors, FP8 blocks (weight_scale_inv), pytorch_model*.bin, torch_dist",
      .complete_provider = copy_rope_numbers,
  };
}

}  // namespace viaduct::models
