// Hybrid decoders: config.json.
#include <algorithm>
#include <array>
#include <cmath>

#include "viaduct/models/decoder.h"
#include "viaduct/models/hybrid_decoder.h"
#include "viaduct/models/hybrid_layers.h"

namespace viaduct::models {

namespace {

constexpr std::array<std::pair<char, std::string_view>, 4> kBlockTypes = {
    {{kMambaLayer, "mamba"}, {kAttentionLayer, "attention"}, {kMlpLayer, "mlp"}, {kExpertsLayer, "moe"}}};
constexpr std::string_view kDefaultMtpPattern = "*E";
constexpr int64_t kConvKernel = 4;  // Megatron's, which has no setting for it

bool has(std::string_view pattern, char layer) { return pattern.find(layer) != std::string_view::npos; }

Json block_types(std::string_view pattern) {
  Json types = Json::array();
  for (const char c : pattern)
    for (const auto& [known, name] : kBlockTypes)
      if (known == c) types.items().push_back(Json(name));
  return types;
}

// The pattern under either key; empty when config.json has neither.
std::string read_pattern(const HfConfig& config, const char* as_text, const char* as_list) {
  const std::string pattern = config.text_or(as_text, "");
  for (const char c : pattern)
    if (std::none_of(kBlockTypes.begin(), kBlockTypes.end(), [c](const auto& known) { return known.first == c; }))
      config.fail(fmt::format("\"{}\": there is no layer '{}'; known are M, *, - and E", as_text, c));
  if (!config.has(as_list)) return pattern;
  std::string listed;
  const Json& types = config.document().at(as_list);
  if (!types.is_array()) config.fail(fmt::format("\"{}\" is not a list", as_list));
  for (const Json& type : types.items()) {
    const auto known = std::find_if(kBlockTypes.begin(), kBlockTypes.end(), [&](const auto& each) {
      return type.is_string() && each.second == type.as_string();
    });
    if (known == kBlockTypes.end())
      config.fail(fmt::format("\"{}\": there is no layer {}; known are mamba, attention, mlp and moe", as_list,
                              type.dump()));
    listed += known->first;
  }
  if (!pattern.empty() && pattern != listed)
    config.fail(
        fmt::format("\"{}\" and \"{}\" contradict each other: {} and {}", as_text, as_list, pattern, listed));
  return listed;
}

// transformers 5 writes its default list beside the pattern that holds.
std::string read_mtp_pattern(const HfConfig& config) {
  const std::string text = read_pattern(config, "mtp_hybrid_override_pattern", "");
  const std::string listed = read_pattern(config, "", "mtp_layers_block_type");
  if (!listed.empty() && listed != kDefaultMtpPattern) return listed;
  return text.empty() ? std::string(kDefaultMtpPattern) : text;
}

MambaSpec read_mamba(const HfConfig& config) {
  MambaSpec mamba;
  mamba.num_heads = config.integer_or("mamba_num_heads", 128);
  mamba.head_dim = config.integer_or("mamba_head_dim", 64);
  mamba.num_groups = config.integer_or("n_groups", 8);
  mamba.state_dim = config.integer_or("ssm_state_size", 128);
  mamba.conv_kernel = config.integer_or("conv_kernel", kConvKernel);
  mamba.chunk_size = config.integer_or("chunk_size", 128);
  if (mamba.conv_kernel != kConvKernel)
    config.fail(fmt::format("\"conv_kernel\" is {}; Megatron's Mamba layers convolve over {}", mamba.conv_kernel,
                            kConvKernel));
  if (!config.boolean_or("use_conv_bias", true))
    config.fail("\"use_conv_bias\" is false; the convolution of Megatron's Mamba layers has a bias");
  if (const std::string act = config.text_or("mamba_hidden_act", "silu"); act != "silu")
    config.fail(fmt::format("\"mamba_hidden_act\" is \"{}\"; Megatron's Mamba layers have silu", act));
  if (config.has("time_step_limit")) {
    // [0.0, Infinity], the latter in transformers 5 as {"__float__": "Infinity"}.
    const Json& limit = config.document().at("time_step_limit");
    const bool free = limit.is_array() && limit.items().size() == 2 && limit.items()[0].is_number() &&
                      limit.items()[0].as_double() == 0.0 &&
                      (limit.items()[1].is_object() ||
                       (limit.items()[1].is_number() && std::isinf(limit.items()[1].as_double())));
    if (!free)
      config.fail(fmt::format("\"time_step_limit\" is {}; Megatron's Mamba layers do not clamp the time step",
                              limit.dump()));
  }
  return mamba;
}

MoeSpec read_experts(const HfConfig& config) {
  MoeSpec moe = default_experts();
  moe.num_experts = config.integer_or("n_routed_experts", moe.num_experts);
  moe.top_k = config.integer_or("num_experts_per_tok", moe.top_k);
  moe.groups = config.integer_or("n_group", 1);
  moe.group_top_k = config.integer_or("topk_group", 1);
  moe.scaling_factor = config.number_or("routed_scaling_factor", 1.0);
  moe.shared_ffn_size = config.integer_or("moe_shared_expert_intermediate_size", *moe.shared_ffn_size);
  moe.latent_size = config.optional_integer("moe_latent_size");
  if (!config.boolean_or("norm_topk_prob", true) && moe.top_k > 1)
    config.fail("\"norm_topk_prob\" is false; Megatron's sigmoid router divides the chosen scores by their sum");
  return moe;
}

// Megatron has one switch for the biases of attention, MLP and experts, and none for those of Mamba.
bool read_biases(const HfConfig& config, const std::string& kinds) {
  const bool mamba = config.boolean_or("use_bias", false) || config.boolean_or("mamba_proj_bias", false);
  const bool attention = config.boolean_or("attention_bias", false), mlp = config.boolean_or("mlp_bias", false);
  if (mamba && has(kinds, kMambaLayer))
    config.fail(
        "\"use_bias\" is true; Megatron's Mamba layers have no place for the biases of in_proj and out_proj");
  if (!attention && !mlp) return false;
  if (has(kinds, kExpertsLayer))
    config.fail(
        "\"attention_bias\" or \"mlp_bias\" is true; Megatron's shared experts have no place for biases, and "
        "one switch holds for all layers");
  if (has(kinds, kAttentionLayer) && has(kinds, kMlpLayer) && attention != mlp)
    config.fail(
        "\"attention_bias\" and \"mlp_bias\" differ; Megatron has biases in attention and MLP or in neither");
  return (attention && has(kinds, kAttentionLayer)) || (mlp && has(kinds, kMlpLayer));
}

void refuse(const HfConfig& config, bool refused, const char* what) {
  if (refused) config.fail(what);
}

}  // namespace

ArchSpec read_hybrid_config(const HfConfig& config) {
  const std::string pattern = read_pattern(config, "hybrid_override_pattern", "layers_block_type");
  if (pattern.empty())
    config.fail(
        "the key \"hybrid_override_pattern\" (or \"layers_block_type\") is missing; it says what each layer is");
  const auto count = static_cast<int64_t>(pattern.size());
  if (const auto layers = config.optional_integer("num_hidden_layers"); layers && *layers != count)
    config.fail(fmt::format("\"num_hidden_layers\" is {}, but the pattern {} has {}", *layers, pattern, count));
  refuse(config, config.boolean_or("residual_in_fp32", false),
         "\"residual_in_fp32\" is true; only residuals of the model's type can be converted");
  refuse(config, config.number_or("hidden_dropout", 0.0) != 0.0,
         "\"hidden_dropout\" is not 0; such models cannot be converted");

  // The same under the names that read_decoder_config knows.
  Json document = config.document();
  document.set("num_hidden_layers", count);
  document.set("rms_norm_eps", config.number_or("layer_norm_epsilon", 1e-5));
  document.erase("hidden_activation");
  document.set("hidden_act", config.text_or("mlp_hidden_act", "relu2"));
  if (!config.has("head_dim")) document.set("head_dim", config.integer_or("attention_head_dim", 128));
  ArchSpec arch =
      read_decoder_config({std::move(document), config.origin()}, {.max_positions = 4096, .kv_heads = 8});
  arch.hybrid = true;
  arch.rope.enabled = false;

  std::string kinds = pattern;
  std::string mtp_pattern;
  if (arch.mtp) kinds += mtp_pattern = read_mtp_pattern(config);
  LayerSpec base = arch.layers.at(0);
  base.mlp.gated = false;
  base.attention.qkv_bias = base.attention.output_bias = base.mlp.bias = read_biases(config, kinds);
  const LayerKinds layers(base, read_mamba(config),
                          has(kinds, kExpertsLayer) ? read_experts(config) : default_experts(),
                          config.integer_or("moe_intermediate_size", kDefaultExpertSize));
  arch.layers = layers.layers(pattern);
  if (arch.mtp) {
    arch.mtp->repeated = config.boolean_or("mtp_use_repeated_layer", true);
    arch.mtp->layers = layers.layers(mtp_pattern);
  }
  return arch;
}

void write_hybrid_config(const ArchSpec& arch, Json& config) {
  for (const char* key : {"hidden_act", "rms_norm_eps", "rope_parameters", "rope_theta", "rope_scaling"})
    config.erase(key);
  const std::string pattern = pattern_of(arch.layers);
  const LayerSpec& layer = arch.layers.at(0);
  config.set("attention_bias", arch.attention_layer().attention.qkv_bias);
  config.set("hidden_dropout", 0.0);
  config.set("hybrid_override_pattern", pattern);
  config.set("layer_norm_epsilon", arch.norm.eps);
  config.set("layers_block_type", block_types(pattern));
  config.set("mlp_bias", layer.mlp.bias);
  config.set("mlp_hidden_act", activation_name(layer.mlp.activation));
  config.set("residual_in_fp32", false);
  config.set("use_bias", false);
  if (const LayerSpec* found = find_layer(arch, kMambaLayer)) {
    const MambaSpec& mamba = *found->mamba;
    config.set("chunk_size", mamba.chunk_size);
    config.set("conv_kernel", mamba.conv_kernel);
    config.set("expand", 2);
    config.set("mamba_head_dim", mamba.head_dim);
    config.set("mamba_hidden_act", "silu");
    config.set("mamba_num_heads", mamba.num_heads);
    config.set("n_groups", mamba.num_groups);
    config.set("ssm_state_size", mamba.state_dim);
    config.set("use_conv_bias", true);
  }
  if (const LayerSpec* found = find_layer(arch, kExpertsLayer)) {
    const MoeSpec& moe = *found->moe;
    config.set("moe_intermediate_size", found->mlp.ffn_hidden_size);
    config.set("moe_latent_size", moe.latent_size ? Json(*moe.latent_size) : Json());
    config.set("moe_shared_expert_intermediate_size", moe.shared_ffn_size.value_or(0));
    config.set("n_group", moe.groups.value_or(1));
    config.set("n_routed_experts", moe.num_experts);
    config.set("n_shared_experts", 1);
    config.set("norm_topk_prob", true);
    config.set("num_experts_per_tok", moe.top_k);
    config.set("routed_scaling_factor", moe.scaling_factor.value_or(1.0));
    config.set("topk_group", moe.group_top_k.value_or(1));
  }
  if (!arch.mtp) return;
  const std::string mtp_pattern = pattern_of(arch.mtp->layers);
  config.set("mtp_hybrid_override_pattern", mtp_pattern);
  config.set("mtp_layers_block_type", block_types(mtp_pattern));
  config.set("mtp_use_repeated_layer", arch.mtp->repeated);
  config.set("num_nextn_predict_layers", arch.mtp->depth);
}

}  // namespace viaduct::models
