// Hybrid decoders: the provider.
#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/models/hybrid_decoder.h"
#include "viaduct/models/hybrid_layers.h"

namespace viaduct::models {

using config::ModelConfig;
using config::Number;

void set_hybrid_provider(const ArchSpec& arch, ModelConfig& provider) {
  provider.target = "megatron.bridge.models.hybrid.hybrid_provider.HybridModelProvider";
  provider.is_hybrid_model = true;
  provider.first_last_layers_bf16 = true;
  provider.persist_layer_norm = true;
  provider.apply_rope_fusion = true;
  provider.bias_dropout_fusion = true;
  provider.set_attention_backend("flash");
  provider.rotary_base = Number(arch.rope.theta);
  provider.rotary_percent = Number(arch.rope.rotary_percent);
  std::string pattern = pattern_of(arch.layers);
  provider.mtp_num_layers = 0;
  if (arch.mtp) {
    const std::string mtp_pattern = pattern_of(arch.mtp->layers);
    for (int64_t i = 0; i < arch.mtp->depth; ++i) pattern += "/" + mtp_pattern;
    provider.mtp_num_layers = arch.mtp->depth;
    provider.mtp_hybrid_override_pattern = mtp_pattern;
    provider.keep_mtp_spec_in_bf16 = true;
    provider.mtp_loss_scaling_factor = Number(0.3);
  }
  provider.hybrid_layer_pattern = pattern;
  if (const LayerSpec* found = find_layer(arch, kMambaLayer)) {
    const MambaSpec& mamba = *found->mamba;
    provider.mamba_num_heads = mamba.num_heads;
    provider.mamba_head_dim = mamba.head_dim;
    provider.mamba_num_groups = mamba.num_groups;
    provider.mamba_state_dim = mamba.state_dim;
    provider.mamba_chunk_size = mamba.chunk_size;
  }
  // A model without experts has those of transformers' defaults in its configuration.
  const LayerSpec* routed = find_layer(arch, kExpertsLayer);
  const MoeSpec moe = routed ? *routed->moe : default_experts();
  provider.num_moe_experts = moe.num_experts;
  provider.moe_router_topk = moe.top_k;
  provider.moe_ffn_hidden_size = routed ? routed->mlp.ffn_hidden_size : kDefaultExpertSize;
  provider.moe_shared_expert_intermediate_size = moe.shared_ffn_size;
  provider.moe_latent_size = moe.latent_size;
  provider.moe_router_num_groups = moe.groups;
  provider.moe_router_group_topk = moe.group_top_k;
  provider.moe_router_topk_scaling_factor = Number(moe.scaling_factor.value_or(1.0));
  provider.moe_router_score_function = "sigmoid";
  provider.moe_router_enable_expert_bias = true;
  provider.moe_router_dtype = "fp32";
  provider.moe_router_load_balancing_type = std::string("seq_aux_loss");
  provider.moe_aux_loss_coeff = Number(moe.aux_loss_coeff);
  provider.moe_shared_expert_overlap = true;
  provider.moe_grouped_gemm = true;
  provider.moe_permute_fusion = true;
  provider.moe_token_dispatcher_type = "alltoall";
}

void read_hybrid_provider(const ModelConfig& provider, ArchSpec& arch) {
  // "M-M*|M-/*E/*E": pipeline stages, then the layers of each depth of multi-token prediction.
  std::string pattern =
      provider.hybrid_layer_pattern.value_or(provider.hybrid_override_pattern.value_or(std::string()));
  VIADUCT_USER_CHECK(!pattern.empty(),
                     "run_config.yaml: model.hybrid_layer_pattern is not set; it says what each "
                     "layer of a hybrid model is");
  std::string mtp_pattern = provider.mtp_hybrid_override_pattern.value_or(std::string());
  if (const size_t slash = pattern.find('/'); slash != std::string::npos) {
    if (mtp_pattern.empty()) mtp_pattern = pattern.substr(slash + 1, pattern.find('/', slash + 1) - slash - 1);
    pattern.resize(slash);
  }
  std::erase(pattern, '|');
  for (const char c : pattern + mtp_pattern)
    VIADUCT_USER_CHECK(
        c == kMambaLayer || c == kAttentionLayer || c == kMlpLayer || c == kExpertsLayer,
        "run_config.yaml: model.hybrid_layer_pattern: there is no layer '{}'; known are M, *, - and E", c);
  arch.hybrid = true;
  arch.per_layer_keys = false;
  LayerSpec base = arch.layers.at(0);
  const MoeSpec moe = base.moe.value_or(default_experts());
  const int64_t expert_size = provider.moe_ffn_hidden_size.value_or(kDefaultExpertSize);
  base.mlp.ffn_hidden_size = arch.dense_ffn_hidden_size;
  base.attention.qkv_bias = base.attention.output_bias = base.mlp.bias;
  MambaSpec mamba;
  mamba.head_dim = provider.mamba_head_dim;
  mamba.num_heads = provider.mamba_num_heads.value_or(2 * arch.hidden_size / std::max<int64_t>(1, mamba.head_dim));
  mamba.num_groups = provider.mamba_num_groups;
  mamba.state_dim = provider.mamba_state_dim;
  mamba.chunk_size = provider.mamba_chunk_size;
  const LayerKinds layers(base, mamba, moe, expert_size);
  arch.layers = layers.layers(pattern);
  if (!arch.mtp) return;
  VIADUCT_USER_CHECK(!mtp_pattern.empty(),
                     "run_config.yaml: model.mtp_num_layers is {}, but nothing says what their layers are "
                     "(model.mtp_hybrid_override_pattern)",
                     arch.mtp->depth);
  arch.mtp->layers = layers.layers(mtp_pattern);
}

}  // namespace viaduct::models
