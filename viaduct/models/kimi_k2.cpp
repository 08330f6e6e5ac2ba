// Kimi K2: DeepSeek V3's model with more experts, no groups and one dense layer. Published under DeepSeek's class;
// upstream has a class of its own for it.
#include "viaduct/models/family.h"
#include "viaduct/models/latent_attention.h"
#include "viaduct/models/routed_layers.h"

namespace viaduct::models {
namespace {

// Form 1: config.json names DeepSeek's class, whose provider upstream then fills in.
bool has_deepseek_class(const HfConfig& config, const ArchSpec&, const TensorShapes&) {
  return config.architecture() == "DeepseekV3ForCausalLM";
}

bool claims(const HfConfig& config) { return config.model_type() == "kimi_k2"; }

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_latent_config(config, {.max_positions = 131072});
  MoeSpec moe;
  moe.score = RouterScore::kSigmoid;
  moe.expert_bias = true;
  moe.softmax_before_top_k = true;
  moe.aux_loss_coeff = config.number_or("aux_loss_alpha", 0.001);
  read_routed_layers(config, {.first_dense = 1, .groups = 1, .group_top_k = 1, .scaling_factor = 2.827}, moe, arch);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  write_latent_config(arch, config);
  write_routed_layers(arch, config);
  const LayerSpec* routed = arch.moe_layer();
  config.set("aux_loss_alpha", routed ? routed->moe->aux_loss_coeff : 0.0);
  config.set("scoring_func", "sigmoid");
  config.set("topk_method", "noaux_tc");
  // The class that every program knows; Kimi's own name wants code that comes with the model.
  config.set("architectures", Json::array({Json("DeepseekV3ForCausalLM")}));
  config.set("model_type", "deepseek_v3");
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  set_routed_provider(arch, provider);
  set_latent_provider(1280, provider);
  if (arch.form == 1) return;
  if (!arch.mtp) provider.mtp_num_layers = 0;
  provider.seq_length = 4096;  // upstream's, for training
  provider.moe_aux_loss_coeff = config::Number(0.001);
}

bool recognises(const config::ModelConfig& provider) {
  return is_latent_provider(provider) &&
         (provider.target.find("Kimi") != std::string::npos ||
          (provider.moe_router_score_function == "sigmoid" && provider.mtp_num_layers == 0));
}

void read_provider(const config::ModelConfig&, ArchSpec& arch) { read_stretched_positions(arch); }

}  // namespace

Family kimi_k2_family() {
  return {
      .name = "kimi_k2",
      .title = "Kimi K2",
      .architecture = "KimiK2ForCausalLM",
      .model_type = "kimi_k2",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "aux_loss_alpha": 0.001,
        "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16", "first_k_dense_replace": 1, "head_dim": 16,
        "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160,
        "kv_lora_rank": 32, "max_position_embeddings": 131072, "moe_intermediate_size": 32, "moe_layer_freq": 1,
        "n_group": 1, "n_routed_experts": 8, "n_shared_experts": 1, "norm_topk_prob": true,
        "num_attention_heads": 4, "num_experts_per_tok": 3, "num_hidden_layers": 4, "num_key_value_heads": 4,
        "num_nextn_predict_layers": 0, "q_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 16,
        "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": 50000.0, "rope_type": "yarn", "factor": 32.0,
        "original_max_position_embeddings": 4096, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0,
        "mscale_all_dim": 1.0}, "routed_scaling_factor": 2.827, "scoring_func": "sigmoid",
        "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc", "use_cache": true,
        "v_head_dim": 20, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = routed_table(latent_attention_rules()),
      .sizes =
          {
              {"kimi-k2", "moonshotai/Kimi-K2-Instruct",
               R"({"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
                   "num_hidden_layers": 61, "num_attention_heads": 64, "num_key_value_heads": 64,
                   "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                   "v_head_dim": 128, "n_routed_experts": 384, "num_experts_per_tok": 8, "vocab_size": 163840})"},
          },
      .other_forms = {{"DeepSeek's class", routed_table(latent_attention_rules()), has_deepseek_class}},
      .sources =
          "safetensors, FP8 blocks (weight_scale_inv), compressed-tensors INT4, pytorch_model*.bin, torch_dist",
      .claims = claims,
      .complete_provider = copy_rope_numbers,
  };
}

}  // namespace viaduct::models
