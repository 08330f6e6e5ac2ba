// DeepSeek V2 and V2-Lite: latent attention with and without a low-rank query, a softmax router, shared experts.
#include "viaduct/models/family.h"
#include "viaduct/models/latent_attention.h"
#include "viaduct/models/routed_layers.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_latent_config(config, {.max_positions = 2048});
  MoeSpec moe;
  moe.softmax_before_top_k = true;
  moe.aux_loss_coeff = config.number_or("aux_loss_alpha", 0.0);
  read_routed_layers(config, {.first_dense = 0, .shared_experts = 2}, moe, arch);
  // The numbers of groups are without effect unless the method is this one.
  if (config.text_or("topk_method", "greedy") != "group_limited_greedy")
    for (LayerSpec& layer : arch.layers)
      if (layer.moe && layer.moe->groups.value_or(1) > 1) layer.moe->groups = layer.moe->group_top_k = 1;
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  write_latent_config(arch, config);
  write_routed_layers(arch, config);
  const LayerSpec* routed = arch.moe_layer();
  const bool grouped = routed && routed->moe->groups.value_or(1) > 1;
  config.set("aux_loss_alpha", routed ? routed->moe->aux_loss_coeff : 0.0);
  config.set("scoring_func", "softmax");
  config.set("topk_method", grouped ? "group_limited_greedy" : "greedy");
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  set_routed_provider(arch, provider);
  set_latent_provider(3200, provider);
  provider.seq_length = 4096;  // upstream's, for training: yarn's numbers tell how far the model goes
}

bool recognises(const config::ModelConfig& provider) {
  return is_latent_provider(provider) && provider.moe_router_score_function == "softmax";
}

void read_provider(const config::ModelConfig&, ArchSpec& arch) { read_stretched_positions(arch); }

}  // namespace

Family deepseek_v2_family() {
  return {
      .name = "deepseek_v2",
      .title = "DeepSeek V2, V2-Lite",
      .architecture = "DeepseekV2ForCausalLM",
      .model_type = "deepseek_v2",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "aux_loss_alpha": 0.001,
        "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16", "first_k_dense_replace": 1, "head_dim": 16,
        "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160,
        "kv_lora_rank": 32, "max_position_embeddings": 163840, "moe_intermediate_size": 32, "n_group": 4,
        "n_routed_experts": 8, "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 4,
        "num_experts_per_tok": 3, "num_hidden_layers": 4, "num_key_value_heads": 4, "q_lora_rank": 48,
        "qk_nope_head_dim": 24, "qk_rope_head_dim": 16, "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 40.0,
        "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707,
        "mscale_all_dim": 0.707}, "routed_scaling_factor": 4.0, "scoring_func": "softmax",
        "tie_word_embeddings": false, "topk_group": 3, "topk_method": "group_limited_greedy", "use_cache": true,
        "v_head_dim": 20, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = routed_table(latent_attention_rules()),
      .sizes =
          {
              {"deepseek-v2", "deepseek-ai/DeepSeek-V2",
               R"({"hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
                   "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128,
                   "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                   "v_head_dim": 128, "n_routed_experts": 160, "num_experts_per_tok": 6, "n_group": 8,
                   "topk_group": 3, "routed_scaling_factor": 16.0, "vocab_size": 102400})"},
              {"deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite",
               R"({"hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
                   "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16,
                   "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                   "v_head_dim": 128, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_group": 1,
                   "topk_group": 1, "topk_method": "greedy", "routed_scaling_factor": 1.0,
                   "vocab_size": 102400})"},
          },
      .complete_provider = copy_rope_numbers,
  };
}

}  // namespace viaduct::models
