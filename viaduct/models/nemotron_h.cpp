// Nemotron-H, Nemotron Nano v2, Nemotron-3: one class for the dense hybrids and those with experts.
#include "viaduct/models/family.h"
#include "viaduct/models/hybrid_decoder.h"

namespace viaduct::models {
namespace {

bool recognises(const config::ModelConfig& provider) {
  for (const char* name : {"HybridModelProvider", "MambaModelProvider", "NemotronH", "NemotronNano", "Nemotron3"})
    if (provider.target.find(name) != std::string::npos) return true;
  return false;
}

// transformers 5.12 writes this one name in the singular.
bool has_embedding(const HfConfig&, const ArchSpec&, const TensorShapes& shapes) {
  return shapes("backbone.embedding.weight").has_value();
}

// The names that transformers' own class has since 5; its files have the public ones.
bool has_module_names(const HfConfig&, const ArchSpec&, const TensorShapes& shapes) {
  return shapes("model.embeddings.weight").has_value();
}

}  // namespace

Family nemotron_h_family() {
  WeightTable weights;
  weights.add(hybrid_rules()).derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "backbone.embeddings.weight"});
  WeightTable singular = weights.renamed({{"backbone.embeddings.", "backbone.embedding."}});
  WeightTable modules = weights.renamed({{"backbone.", "model."}});
  return {
      .name = "nemotron_h",
      .title = "Nemotron-H, Nemotron Nano v2, Nemotron-3 Nano and Super",
      .architecture = "NemotronHForCausalLM",
      .model_type = "nemotron_h",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "chunk_size": 128, "conv_kernel": 4, "dtype": "bfloat16", "expand": 2, "head_dim": 12, "hidden_dropout": 0.0,
        "hidden_size": 48, "hybrid_override_pattern": "ME-M*E", "initializer_range": 0.02, "intermediate_size": 96,
        "layer_norm_epsilon": 1e-05, "mamba_head_dim": 12, "mamba_hidden_act": "silu", "mamba_num_heads": 8,
        "max_position_embeddings": 256, "mlp_bias": false, "mlp_hidden_act": "relu2", "moe_intermediate_size": 36,
        "moe_latent_size": 24, "moe_shared_expert_intermediate_size": 72, "mtp_hybrid_override_pattern": "*E",
        "mtp_use_repeated_layer": true, "n_group": 1, "n_groups": 4, "n_routed_experts": 8, "n_shared_experts": 1,
        "norm_topk_prob": true, "num_attention_heads": 4, "num_experts_per_tok": 2, "num_hidden_layers": 6,
        "num_key_value_heads": 2, "num_nextn_predict_layers": 1, "residual_in_fp32": false,
        "routed_scaling_factor": 2.5, "ssm_state_size": 16, "tie_word_embeddings": false, "topk_group": 1,
        "use_bias": false, "use_cache": true, "use_conv_bias": true, "vocab_size": 256})",
      .read_config = read_hybrid_config,
      .write_config = write_hybrid_config,
      .set_provider = set_hybrid_provider,
      .recognises = recognises,
      .read_provider = read_hybrid_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"nemotron-h-4b", "nvidia/Nemotron-H-4B-Base-8K",
               R"({"hidden_size": 3072, "intermediate_size": 12288, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 112, "mamba_head_dim": 64,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 8192,
                   "num_nextn_predict_layers": 0, "num_hidden_layers": 52,
                   "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"})"},
              {"nemotron-h-8b", "nvidia/Nemotron-H-8B-Base-8K",
               R"({"hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 8192,
                   "num_nextn_predict_layers": 0, "num_hidden_layers": 52,
                   "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"})"},
              {"nemotron-h-47b", "nvidia/Nemotron-H-47B-Base-8K",
               R"({"hidden_size": 8192, "intermediate_size": 30720, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 256, "mamba_head_dim": 64,
                   "ssm_state_size": 256, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 8192,
                   "num_nextn_predict_layers": 0, "num_hidden_layers": 98,
                   "hybrid_override_pattern": "M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M)"
               R"(*-M-M-M-M-M-M-M---MM---M-M*-M-M-M-M-M-"})"},
              {"nemotron-h-56b", "nvidia/Nemotron-H-56B-Base-8K",
               R"({"hidden_size": 8192, "intermediate_size": 32768, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 256, "mamba_head_dim": 64,
                   "ssm_state_size": 256, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 8192,
                   "num_nextn_predict_layers": 0, "num_hidden_layers": 118,
                   "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M)"
               R"(-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"})"},
              {"nemotron-nano-9b-v2", "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
               R"({"hidden_size": 4480, "intermediate_size": 15680, "num_attention_heads": 40,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 80,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 131072,
                   "num_nextn_predict_layers": 0, "num_hidden_layers": 56,
                   "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"})"},
              {"nemotron-nano-12b-v2", "nvidia/NVIDIA-Nemotron-Nano-12B-v2",
               R"({"hidden_size": 5120, "intermediate_size": 20480, "num_attention_heads": 40,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 80,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 131072,
                   "num_nextn_predict_layers": 0, "num_hidden_layers": 62,
                   "hybrid_override_pattern": "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"})"},
              {"nemotron-3-nano-4b", "nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16",
               R"({"hidden_size": 3136, "intermediate_size": 12544, "num_attention_heads": 40,
                   "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 96, "mamba_head_dim": 80,
                   "ssm_state_size": 128, "n_groups": 8, "chunk_size": 256, "vocab_size": 131072,
                   "max_position_embeddings": 262144, "num_nextn_predict_layers": 0, "num_hidden_layers": 42,
                   "hybrid_override_pattern": "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-"})"},
              {"nemotron-3-nano-30b-a3b", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
               R"({"hidden_size": 2688, "intermediate_size": 1856, "num_attention_heads": 32,
                   "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 64, "mamba_head_dim": 64,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 262144,
                   "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712,
                   "moe_latent_size": null, "n_routed_experts": 128, "num_experts_per_tok": 6,
                   "num_nextn_predict_layers": 0, "num_hidden_layers": 52,
                   "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"})"},
              {"nemotron-3-super-120b-a12b", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
               R"({"hidden_size": 4096, "intermediate_size": 2688, "num_attention_heads": 32,
                   "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64,
                   "ssm_state_size": 128, "n_groups": 8, "vocab_size": 131072, "max_position_embeddings": 262144,
                   "moe_intermediate_size": 2688, "moe_shared_expert_intermediate_size": 5376,
                   "moe_latent_size": 1024, "n_routed_experts": 512, "num_experts_per_tok": 22,
                   "routed_scaling_factor": 5.0, "num_hidden_layers": 88,
                   "hybrid_override_pattern": "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*E)"
               R"(MEMEMEMEM*EMEMEMEM*EMEMEMEME"})"},
          },
      .other_forms = {{"transformers 5.12", std::move(singular), has_embedding},
                      {"transformers' module names", std::move(modules), has_module_names}},
  };
}

}  // namespace viaduct::models
