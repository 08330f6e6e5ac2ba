// The parameters of one layer, by what it is made of.
#include <array>

#include "viaduct/core/error.h"
#include "viaduct/models/parameter_builder.h"

namespace viaduct::models {

using layout::Split;

namespace {

void add_latent_attention(ParameterBuilder& b, const AttentionSpec& attention, const MlaSpec& mla) {
  const int64_t hidden = b.arch().hidden_size, heads = attention.num_heads;
  const int64_t query = heads * (mla.nope_head_dim + mla.rope_head_dim);
  b.add_norm("input_layernorm.", hidden);
  b.add("self_attention.linear_proj.weight", {hidden, heads * mla.v_head_dim}, Split::along(1));
  if (attention.output_bias) b.add("self_attention.linear_proj.bias", {hidden});
  if (mla.q_lora_rank) {
    b.add("self_attention.linear_q_down_proj.weight", {*mla.q_lora_rank, hidden});
    b.add_norm("self_attention.linear_q_up_proj.layer_norm_", *mla.q_lora_rank);
    b.add("self_attention.linear_q_up_proj.weight", {query, *mla.q_lora_rank}, Split::along(0));
  } else {
    b.add("self_attention.linear_q_proj.weight", {query, hidden}, Split::along(0));
  }
  b.add("self_attention.linear_kv_down_proj.weight", {mla.kv_lora_rank + mla.rope_head_dim, hidden});
  b.add_norm("self_attention.linear_kv_up_proj.layer_norm_", mla.kv_lora_rank);
  b.add("self_attention.linear_kv_up_proj.weight", {heads * (mla.nope_head_dim + mla.v_head_dim), mla.kv_lora_rank},
        Split::along(0));
}

void add_attention(ParameterBuilder& b, const AttentionSpec& attention, bool post_norm) {
  if (attention.mla) return add_latent_attention(b, attention, *attention.mla);
  const int64_t hidden = b.arch().hidden_size;
  const int64_t query = attention.num_heads * attention.head_dim;
  const int64_t key = attention.num_query_groups * attention.head_dim;
  const int64_t rows = query * (attention.output_gate ? 2 : 1) + 2 * key;
  if (attention.sinks)
    b.add("self_attention.core_attention.softmax_offset", {attention.num_heads}, Split::along(0));
  b.add("self_attention.linear_proj.weight", {hidden, query}, Split::along(1));
  if (attention.output_bias) b.add("self_attention.linear_proj.bias", {hidden});
  if (post_norm) b.add_norm("self_attention.linear_proj.post_layernorm.", hidden);
  b.add_norm("self_attention.linear_qkv.layer_norm_", hidden);
  b.add("self_attention.linear_qkv.weight", {rows, hidden}, Split::along(0));
  if (attention.qkv_bias) b.add("self_attention.linear_qkv.bias", {rows}, Split::along(0));
  if (attention.qk_norm == QkNorm::kNone) return;
  const bool per_head = attention.qk_norm == QkNorm::kPerHead;
  b.add_norm("self_attention.q_layernorm.", per_head ? attention.head_dim : query);
  b.add_norm("self_attention.k_layernorm.", per_head ? attention.head_dim : key);
}

void add_mamba(ParameterBuilder& b, const MambaSpec& mamba) {
  static constexpr std::array<std::string_view, 3> kConvParts = {".x", ".B", ".C"};
  static constexpr std::array<std::string_view, 5> kProjectionParts = {".z", ".x", ".B", ".C", ".dt"};
  const int64_t hidden = b.arch().hidden_size;
  const int64_t inner = mamba.inner_size(), group = mamba.group_size(), heads = mamba.num_heads;
  const Split conv = Split::along(0, {inner, group, group});
  const Split projection = Split::along(0, {inner, inner, group, group, heads});
  b.add_plain("mixer.conv1d_weight", {inner + 2 * group, 1, mamba.conv_kernel}, conv).stored_parts = kConvParts;
  if (mamba.conv_bias) b.add_plain("mixer.conv1d_bias", {inner + 2 * group}, conv).stored_parts = kConvParts;
  for (const char* name : {"mixer.dt_bias", "mixer.A_log", "mixer.D"})
    b.add_plain(name, {heads}, Split::along(0)).stored_type = StoredType::kModel;
  b.add_norm("mixer.in_proj.layer_norm_", hidden);
  b.add("mixer.in_proj.weight", {2 * inner + 2 * group + heads, hidden}, projection).stored_parts =
      kProjectionParts;
  b.add_plain("mixer.norm.weight", {inner}, Split::along(0));
  b.add("mixer.out_proj.weight", {hidden, inner}, Split::along(1));
}

void add_delta_net(ParameterBuilder& b, const DeltaNetSpec& net) {
  static constexpr std::array<std::string_view, 3> kConvParts = {".query", ".key", ".value"};
  static constexpr std::array<std::string_view, 6> kProjectionParts = {".query", ".key",  ".value",
                                                                       ".z",     ".beta", ".alpha"};
  const int64_t hidden = b.arch().hidden_size, key = net.key_size(), value = net.value_size();
  const int64_t heads = net.num_value_heads;
  for (const char* name : {"self_attention.dt_bias", "self_attention.A_log"})
    b.add_plain(name, {heads}, Split::along(0)).stored_type = StoredType::kModel;
  b.add_norm("self_attention.in_proj.layer_norm_", hidden);
  b.add("self_attention.in_proj.weight", {2 * key + 2 * value + 2 * heads, hidden},
        Split::along(0, {key, key, value, value, heads, heads}))
      .stored_parts = kProjectionParts;
  b.add_plain("self_attention.conv1d.weight", {2 * key + value, 1, net.conv_kernel},
              Split::along(0, {key, key, value}))
      .stored_parts = kConvParts;
  b.add("self_attention.out_norm.weight", {net.value_head_dim});
  b.add("self_attention.out_proj.weight", {hidden, value}, Split::along(1));
}

// One projection instead of attention or MLP, with the norm before it.
void add_linear(ParameterBuilder& b, const std::string& module) {
  const int64_t hidden = b.arch().hidden_size;
  b.add_norm(module + ".layer_norm_", hidden);
  b.add(module + ".weight", {hidden, hidden}, Split::along(0));
}

// Rows of fc1: a gated MLP has gate and up, each cut among the ranks for itself.
Split fc1_split(bool gated, int64_t ffn_size) {
  if (!gated) return Split::along(0);
  return Split::along(0, {ffn_size, ffn_size});
}

void add_dense(ParameterBuilder& b, const MlpSpec& mlp, bool post_norm) {
  const int64_t hidden = b.arch().hidden_size;
  const int64_t rows = mlp.ffn_hidden_size * (mlp.gated ? 2 : 1);
  const Split split = fc1_split(mlp.gated, mlp.ffn_hidden_size);
  b.add_norm("mlp.linear_fc1.layer_norm_", hidden);
  b.add("mlp.linear_fc1.weight", {rows, hidden}, split);
  if (mlp.bias) b.add("mlp.linear_fc1.bias", {rows}, split);
  b.add("mlp.linear_fc2.weight", {hidden, mlp.ffn_hidden_size}, Split::along(1));
  if (mlp.bias) b.add("mlp.linear_fc2.bias", {hidden});
  if (post_norm) b.add_norm("mlp.linear_fc2.post_layernorm.", hidden);
}

void add_shared_experts(ParameterBuilder& b, const MlpSpec& mlp, const MoeSpec& moe) {
  const int64_t hidden = b.arch().hidden_size, size = *moe.shared_ffn_size;
  if (moe.shared_gate) b.add_plain("mlp.shared_experts.gate_weight", {1, hidden});
  b.add("mlp.shared_experts.linear_fc1.weight", {size * (mlp.gated ? 2 : 1), hidden}, fc1_split(mlp.gated, size));
  b.add("mlp.shared_experts.linear_fc2.weight", {hidden, size}, Split::along(1));
}

void add_experts(ParameterBuilder& b, const MlpSpec& mlp, const MoeSpec& moe) {
  const int64_t hidden = b.arch().hidden_size, width = moe.latent_size.value_or(hidden);
  const int64_t rows = mlp.ffn_hidden_size * (mlp.gated ? 2 : 1);
  b.add_norm("pre_mlp_layernorm.", hidden);
  b.add_plain("mlp.router.weight", {moe.num_experts, hidden});
  if (moe.router_bias) b.add_plain("mlp.router.bias", {moe.num_experts});
  if (moe.expert_bias) {
    Parameter& bias = b.add_plain("mlp.router.expert_bias", {moe.num_experts});
    bias.dtype = DType::kF32;
    bias.stored_type = StoredType::kFloat32;
  }
  if (moe.latent_size) {
    b.add("mlp.fc1_latent_proj.weight", {width, hidden});
    b.add("mlp.fc2_latent_proj.weight", {hidden, width});
  }
  const auto each = [&](const char* name, const Shape& shape, const Split& split) {
    for (int64_t e = 0; e < moe.num_experts; ++e)
      b.add(fmt::format("mlp.experts.{}{}", name, e), shape, split).expert = static_cast<int32_t>(e);
  };
  const Split split = fc1_split(mlp.gated, mlp.ffn_hidden_size);
  each("linear_fc1.weight", {rows, width}, split);
  if (mlp.bias) each("linear_fc1.bias", {rows}, split);
  each("linear_fc2.weight", {width, mlp.ffn_hidden_size}, Split::along(1));
  if (mlp.bias) each("linear_fc2.bias", {width}, Split::replicated());
  if (moe.shared_ffn_size) add_shared_experts(b, mlp, moe);
}

}  // namespace

void add_layer(ParameterBuilder& builder, const LayerSpec& layer) {
  switch (layer.mixer) {
    case Mixer::kAttention: add_attention(builder, layer.attention, layer.post_attention_norm); break;
    case Mixer::kMamba: add_mamba(builder, layer.mamba.value()); break;
    case Mixer::kDeltaNet: add_delta_net(builder, layer.delta_net.value()); break;
    case Mixer::kLinear: add_linear(builder, "self_attention"); break;
    case Mixer::kNone: break;
  }
  switch (layer.feed_forward) {
    case FeedForward::kMlp:
      if (layer.moe) {
        add_experts(builder, layer.mlp, *layer.moe);
      } else {
        add_dense(builder, layer.mlp, layer.post_mlp_norm);
      }
      break;
    case FeedForward::kLinear: add_linear(builder, "mlp"); break;
    case FeedForward::kNone: break;
  }
}

}  // namespace viaduct::models
