#include <algorithm>
#include <array>

#include "viaduct/models/decoder.h"

namespace viaduct::models {

using config::ModelConfig;
using config::Number;

namespace {

// Upstream's functions by the last word of their path, which is what other releases keep.
constexpr std::array<std::pair<Activation, const char*>, 6> kActivations = {{
    {Activation::kSilu, "torch.nn.functional.silu"},
    {Activation::kGelu, "torch.nn.functional.gelu"},
    {Activation::kGeluTanh, "megatron.core.activations.fast_gelu"},
    {Activation::kSquaredRelu, "megatron.core.activations.squared_relu"},
    {Activation::kQuickGelu, "megatron.core.fusions.fused_bias_geglu.quick_gelu"},
    {Activation::kRelu, "torch.nn.functional.relu"},
}};

void set_experts(const ArchSpec& arch, ModelConfig& provider) {
  const LayerSpec* routed = arch.moe_layer();
  if (!routed) return;
  const MoeSpec& moe = *routed->moe;
  provider.num_moe_experts = moe.num_experts;
  provider.moe_router_topk = moe.top_k;
  provider.moe_ffn_hidden_size = routed->mlp.ffn_hidden_size;
  provider.moe_router_pre_softmax = moe.softmax_before_top_k;
  if (moe.router_in_fp32) provider.moe_router_dtype = "fp32";
  provider.moe_aux_loss_coeff = Number(moe.aux_loss_coeff);
  static constexpr const char* kBalancing[] = {"none", "aux_loss", "seq_aux_loss", "global_aux_loss"};
  provider.moe_router_load_balancing_type = std::string(kBalancing[static_cast<int>(moe.balancing)]);
  if (moe.score == RouterScore::kSigmoid) provider.moe_router_score_function = "sigmoid";
  provider.moe_router_enable_expert_bias = moe.expert_bias;
  provider.moe_router_num_groups = moe.groups;
  provider.moe_router_group_topk = moe.group_top_k;
  if (moe.scaling_factor) provider.moe_router_topk_scaling_factor = Number(*moe.scaling_factor);
  provider.moe_shared_expert_intermediate_size = moe.shared_ffn_size;
  provider.moe_shared_expert_gate = moe.shared_gate;
  provider.moe_latent_size = moe.latent_size;
  provider.moe_grouped_gemm = true;
  provider.moe_permute_fusion = true;
  provider.moe_token_dispatcher_type = "alltoall";
  config::Ints pattern;
  for (const LayerSpec& layer : arch.layers) pattern.push_back(layer.moe ? 1 : 0);
  // A list makes Megatron write per-layer keys, so an all-MoE model keeps the plain 1.
  if (!arch.hybrid && (arch.per_layer_keys || std::find(pattern.begin(), pattern.end(), 0) != pattern.end()))
    provider.moe_layer_freq = std::move(pattern);
}

// MLA's provider has yarn's fields under names of its own, and no other scaling.
void set_latent_attention(const ArchSpec& arch, const MlaSpec& mla, ModelConfig& provider) {
  const RopeSpec& rope = arch.rope;
  provider.multi_latent_attention = true;
  provider.qk_layernorm = true;
  provider.q_lora_rank = mla.q_lora_rank;
  provider.kv_lora_rank = mla.kv_lora_rank;
  provider.qk_head_dim = mla.nope_head_dim;
  provider.qk_pos_emb_head_dim = mla.rope_head_dim;
  provider.v_head_dim = mla.v_head_dim;
  provider.kv_channels = mla.rope_head_dim;  // what transformers calls the head_dim of such a model
  provider.rotary_base = Number(rope.theta);
  // The provider's own defaults are yarn's; without yarn nothing is stretched.
  provider.rotary_scaling_factor = Number(1.0);
  provider.mscale_all_dim = Number(1.0);
  if (rope.scaling != RopeScaling::kYarn) return;
  provider.rotary_scaling_factor = Number(rope.factor);
  provider.original_max_position_embeddings = rope.original_max_positions;
  provider.beta_fast = Number(rope.beta_fast);
  provider.beta_slow = Number(rope.beta_slow);
  provider.mscale = Number(rope.mscale.value_or(1.0));
  provider.mscale_all_dim = Number(rope.mscale_all_dim.value_or(0.0));
}

void read_latent_attention(const ModelConfig& provider, ArchSpec& arch, AttentionSpec& attention) {
  MlaSpec& mla = attention.mla.emplace();
  mla.q_lora_rank = provider.q_lora_rank;
  mla.kv_lora_rank = provider.kv_lora_rank;
  mla.nope_head_dim = provider.qk_head_dim;
  mla.rope_head_dim = provider.qk_pos_emb_head_dim;
  mla.v_head_dim = provider.v_head_dim;
  attention.qk_norm = QkNorm::kNone;
  attention.head_dim = mla.rope_head_dim;
  RopeSpec& rope = arch.rope;
  rope.factor = provider.rotary_scaling_factor.value_or(Number(1.0));
  if (rope.factor == 1.0) return;
  rope.scaling = RopeScaling::kYarn;
  rope.original_max_positions = provider.original_max_position_embeddings;
  rope.beta_fast = provider.beta_fast;
  rope.beta_slow = provider.beta_slow;
  rope.mscale = provider.mscale;
  rope.mscale_all_dim = provider.mscale_all_dim;
}

void set_rope(const RopeSpec& rope, ModelConfig& provider) {
  if (!rope.enabled) {
    provider.position_embedding_type = "none";
    return;
  }
  provider.rotary_base = Number(rope.theta);
  provider.rotary_percent = Number(rope.rotary_percent);
  if (!rope.mrope_section.empty()) {
    provider.position_embedding_type = "mrope";
    provider.mrope_section = rope.mrope_section;
  }
  switch (rope.scaling) {
    case RopeScaling::kNone: return;
    case RopeScaling::kLinear: provider.seq_len_interpolation_factor = Number(rope.factor); return;
    case RopeScaling::kLlama3:
      provider.rope_scaling = true;
      provider.rope_scaling_factor = Number(rope.factor);
      return;
    case RopeScaling::kYarn:
      provider.position_embedding_type = "yarn";
      provider.yarn_rotary_scaling_factor = Number(rope.factor);
      provider.yarn_original_max_position_embeddings = rope.original_max_positions;
      provider.yarn_beta_fast = Number(rope.beta_fast);
      provider.yarn_beta_slow = Number(rope.beta_slow);
      if (rope.mscale) provider.yarn_mscale = Number(*rope.mscale);
      if (rope.mscale_all_dim) provider.yarn_mscale_all_dim = Number(*rope.mscale_all_dim);
      provider.yarn_correction_range_round_to_int = rope.truncate;
      return;
  }
}

RopeSpec read_rope(const ModelConfig& provider) {
  RopeSpec rope;
  rope.enabled =
      provider.position_embedding_type != "none" && provider.position_embedding_type != "learned_absolute";
  if (const auto* base = std::get_if<Number>(&provider.rotary_base)) rope.theta = *base;
  rope.rotary_percent = provider.rotary_percent;
  if (provider.position_embedding_type == "mrope")
    rope.mrope_section = provider.mrope_section.value_or(config::Ints{});
  if (provider.rope_scaling) {
    // Megatron's other constants of this scaling are fixed: RopeSpec's defaults.
    rope.scaling = RopeScaling::kLlama3;
    rope.factor = provider.rope_scaling_factor;
  } else if (provider.position_embedding_type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    rope.factor = provider.yarn_rotary_scaling_factor.value_or(Number(1.0));
    rope.original_max_positions = provider.yarn_original_max_position_embeddings.value_or(provider.seq_length);
    rope.beta_fast = provider.yarn_beta_fast.value_or(Number(32.0));
    rope.beta_slow = provider.yarn_beta_slow.value_or(Number(1.0));
    if (provider.yarn_mscale) rope.mscale = *provider.yarn_mscale;
    if (provider.yarn_mscale_all_dim) rope.mscale_all_dim = *provider.yarn_mscale_all_dim;
    rope.truncate = provider.yarn_correction_range_round_to_int;
  } else if (provider.seq_len_interpolation_factor) {
    rope.scaling = RopeScaling::kLinear;
    rope.factor = *provider.seq_len_interpolation_factor;
  }
  return rope;
}

std::optional<int64_t> read_window(const ModelConfig& provider) {
  if (!provider.window_size) return std::nullopt;
  if (const auto* sides = std::get_if<config::Ints>(&*provider.window_size); sides && !sides->empty())
    return (*sides)[0] < 0 ? std::nullopt : std::optional((*sides)[0] + 1);
  if (const auto* size = std::get_if<int64_t>(&*provider.window_size)) return *size + 1;
  return std::nullopt;
}

}  // namespace

void set_provider_window(ModelConfig& provider, std::optional<int64_t> window) {
  if (window) {
    provider.window_size = config::Ints{*window - 1, 0};
  } else {
    provider.window_size.reset();
  }
}

void set_decoder_provider(const ArchSpec& arch, ModelConfig& provider) {
  const LayerSpec& layer = arch.attention_layer();
  const AttentionSpec& attention = layer.attention;
  provider.num_layers = arch.num_layers();
  provider.hidden_size = arch.hidden_size;
  provider.ffn_hidden_size = arch.dense_ffn_hidden_size;
  provider.num_attention_heads = attention.num_heads;
  provider.num_query_groups = attention.num_query_groups;
  provider.kv_channels = attention.head_dim;
  provider.vocab_size = arch.embedding.vocab_size;
  provider.make_vocab_size_divisible_by = config::vocab_divisor(arch.embedding.vocab_size);
  provider.seq_length = arch.max_positions;
  provider.normalization = arch.norm.kind == NormKind::kRms ? "RMSNorm" : "LayerNorm";
  provider.layernorm_epsilon = arch.norm.eps;
  provider.layernorm_zero_centered_gamma = arch.norm.zero_centered;
  for (const auto& [activation, function] : kActivations)
    if (activation == layer.mlp.activation) provider.set_activation(function);
  provider.gated_linear_unit = layer.mlp.gated;
  provider.add_bias_linear = layer.mlp.bias;
  if (layer.mlp.clamp) provider.activation_func_clamp_value = config::Number(*layer.mlp.clamp);
  provider.glu_linear_offset = layer.mlp.up_offset;
  provider.add_qkv_bias = attention.qkv_bias;
  provider.qk_layernorm = attention.qk_norm != QkNorm::kNone;
  provider.share_embeddings_and_output_weights = arch.embedding.tied;
  provider.init_method_std = arch.init_std;
  provider.attention_dropout = arch.attention_dropout;
  provider.hidden_dropout = 0.0;
  if (attention.mla) {
    set_latent_attention(arch, *attention.mla, provider);
  } else {
    set_rope(arch.rope, provider);
    if (arch.embedding.learned_positions) provider.position_embedding_type = "learned_absolute";
  }
  provider.attention_output_gate = attention.output_gate;
  if (attention.sinks) provider.softmax_type = "learnable";
  if (arch.mtp) {
    provider.mtp_num_layers = arch.mtp->depth;
    provider.mtp_use_repeated_layer = arch.mtp->repeated;
  }
  set_experts(arch, provider);
  // A window on all layers is window_size alone; on some, a list says on which.
  std::optional<int64_t> window;
  config::Ints windowed;
  for (const LayerSpec& each : arch.layers) {
    if (!each.has_attention()) continue;
    if (each.attention.window) window = each.attention.window;
    windowed.push_back(each.attention.window ? 1 : 0);
  }
  set_provider_window(provider, window);
  if (window && std::find(windowed.begin(), windowed.end(), 0) != windowed.end())
    provider.window_attn_skip_freq = std::move(windowed);
  provider.set_params_dtype(arch.dtype);
}

ArchSpec read_decoder_provider(const ModelConfig& provider) {
  ArchSpec arch;
  arch.hidden_size = provider.hidden_size;
  arch.max_positions = provider.seq_length;
  arch.dtype = provider.params_dtype;
  VIADUCT_USER_CHECK(provider.normalization == "RMSNorm" || provider.normalization == "LayerNorm",
                     "run_config.yaml: model.normalization is \"{}\"; known are RMSNorm and LayerNorm",
                     provider.normalization);
  arch.norm.kind = provider.normalization == "RMSNorm" ? NormKind::kRms : NormKind::kLayer;
  arch.norm.eps = provider.layernorm_epsilon;
  arch.norm.zero_centered = provider.layernorm_zero_centered_gamma;
  arch.rope = read_rope(provider);
  VIADUCT_USER_CHECK(provider.vocab_size, "run_config.yaml: model.vocab_size is not set");
  arch.embedding.vocab_size = *provider.vocab_size;
  arch.embedding.tied = provider.share_embeddings_and_output_weights;
  arch.embedding.learned_positions = provider.position_embedding_type == "learned_absolute";
  arch.init_std = provider.init_method_std;
  arch.attention_dropout = provider.attention_dropout;
  const int64_t ffn = provider.ffn_hidden_size.value_or(4 * provider.hidden_size);
  arch.dense_ffn_hidden_size = ffn;

  LayerSpec layer;
  AttentionSpec& attention = layer.attention;
  attention.num_heads = provider.num_attention_heads;
  VIADUCT_USER_CHECK(attention.num_heads > 0, "run_config.yaml: model.num_attention_heads is {}",
                     attention.num_heads);
  attention.num_query_groups = provider.num_query_groups.value_or(attention.num_heads);
  attention.head_dim = provider.kv_channels.value_or(arch.hidden_size / attention.num_heads);
  attention.qkv_bias = provider.add_qkv_bias || provider.add_bias_linear;
  attention.output_bias = provider.add_bias_linear;
  attention.qk_norm = provider.qk_layernorm ? QkNorm::kPerHead : QkNorm::kNone;
  attention.output_gate = provider.attention_output_gate;
  attention.sinks = provider.softmax_type == "learnable";
  if (provider.multi_latent_attention) read_latent_attention(provider, arch, attention);
  layer.mlp.gated = provider.gated_linear_unit;
  layer.mlp.bias = provider.add_bias_linear;
  if (provider.activation_func_clamp_value) layer.mlp.clamp = *provider.activation_func_clamp_value;
  layer.mlp.up_offset = provider.glu_linear_offset;
  layer.mlp.ffn_hidden_size = ffn;
  for (const auto& [activation, function] : kActivations)
    if (provider.activation_name() == config::last_word(function)) layer.mlp.activation = activation;

  VIADUCT_USER_CHECK(provider.num_layers > 0 && provider.num_layers <= 100000,
                     "run_config.yaml: model.num_layers is {}", provider.num_layers);
  const auto count = static_cast<size_t>(provider.num_layers);
  arch.layers.assign(count, layer);
  const std::optional<int64_t> window = read_window(provider);
  for (size_t i = 0; i < count; ++i) {
    LayerSpec& each = arch.layers[i];
    bool slides = true;
    if (provider.window_attn_skip_freq) {
      // An integer N: every N-th layer sees everything. A list: 1 for a window.
      if (const auto* every = std::get_if<int64_t>(&*provider.window_attn_skip_freq)) {
        slides = *every <= 0 || (static_cast<int64_t>(i) + 1) % *every != 0;
      } else {
        const auto& list = std::get<config::Ints>(*provider.window_attn_skip_freq);
        slides = i < list.size() && list[i] != 0;
      }
    }
    if (slides) each.attention.window = window;
    if (!provider.num_moe_experts) continue;
    bool routed = true;
    if (const auto* every = std::get_if<int64_t>(&provider.moe_layer_freq)) {
      routed = *every <= 1 || static_cast<int64_t>(i) % *every == 0;
    } else {
      const auto& list = std::get<config::Ints>(provider.moe_layer_freq);
      routed = i < list.size() && list[i] != 0;
    }
    if (!routed) continue;
    MoeSpec& moe = each.moe.emplace();
    moe.num_experts = *provider.num_moe_experts;
    moe.top_k = provider.moe_router_topk;
    moe.softmax_before_top_k = provider.moe_router_pre_softmax;
    moe.router_in_fp32 = provider.moe_router_dtype == "fp32";
    if (provider.moe_router_score_function == "sigmoid") moe.score = RouterScore::kSigmoid;
    moe.expert_bias = provider.moe_router_enable_expert_bias;
    moe.groups = provider.moe_router_num_groups;
    moe.group_top_k = provider.moe_router_group_topk;
    if (provider.moe_router_topk_scaling_factor) moe.scaling_factor = *provider.moe_router_topk_scaling_factor;
    moe.shared_ffn_size = provider.moe_shared_expert_intermediate_size;
    moe.shared_gate = provider.moe_shared_expert_gate;
    moe.latent_size = provider.moe_latent_size;
    if (const auto* coefficient = std::get_if<Number>(&provider.moe_aux_loss_coeff))
      moe.aux_loss_coeff = *coefficient;
    if (const auto* balancing = std::get_if<std::string>(&provider.moe_router_load_balancing_type))
      moe.balancing = *balancing == "seq_aux_loss"      ? RouterBalancing::kSeqAuxLoss
                      : *balancing == "global_aux_loss" ? RouterBalancing::kGlobalAuxLoss
                      : *balancing == "none"            ? RouterBalancing::kNone
                                                        : RouterBalancing::kAuxLoss;
    each.mlp.ffn_hidden_size = provider.moe_ffn_hidden_size.value_or(ffn);
  }
  // A list of routed layers makes Megatron keep one key a layer.
  arch.per_layer_keys = provider.num_moe_experts && std::holds_alternative<config::Ints>(provider.moe_layer_freq);
  if (provider.mtp_num_layers && *provider.mtp_num_layers > 0)
    arch.mtp = MtpSpec{*provider.mtp_num_layers, provider.mtp_use_repeated_layer, {arch.layers.back()}};
  return arch;
}

}  // namespace viaduct::models
