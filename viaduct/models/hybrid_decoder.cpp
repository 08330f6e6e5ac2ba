#include "viaduct/models/hybrid_decoder.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/models/decoder.h"

namespace viaduct::models {

using config::ModelConfig;
using config::Number;

namespace {

constexpr char kMamba = 'M', kAttention = '*', kMlp = '-', kExperts = 'E';
constexpr std::array<std::pair<char, std::string_view>, 4> kBlockTypes = {
    {{kMamba, "mamba"}, {kAttention, "attention"}, {kMlp, "mlp"}, {kExperts, "moe"}}};
constexpr std::string_view kDefaultMtpPattern = "*E";
constexpr int64_t kConvKernel = 4;  // Megatron's, which has no setting for it

bool has(std::string_view pattern, char layer) { return pattern.find(layer) != std::string_view::npos; }

// What transformers assumes of experts, also in the configuration of a model that has none.
MoeSpec default_experts() {
  MoeSpec moe;
  moe.num_experts = 8;
  moe.top_k = 2;
  moe.score = RouterScore::kSigmoid;
  moe.expert_bias = true;
  moe.groups = moe.group_top_k = 1;
  moe.scaling_factor = 1.0;
  moe.shared_ffn_size = 7688;
  moe.router_in_fp32 = true;
  moe.balancing = RouterBalancing::kSeqAuxLoss;
  moe.aux_loss_coeff = 1e-4;
  return moe;
}
constexpr int64_t kDefaultExpertSize = 7688;

// One layer of each kind.
struct LayerKinds {
  LayerSpec mamba, attention, mlp, experts;

  // `base` has the attention and the dense MLP, of which each layer is only one.
  LayerKinds(LayerSpec base, const MambaSpec& spec, const MoeSpec& moe, int64_t expert_size) {
    base.mixer = Mixer::kNone;
    base.feed_forward = FeedForward::kNone;
    base.moe.reset();
    mamba = attention = mlp = experts = base;
    mamba.mixer = Mixer::kMamba;
    mamba.mamba = spec;
    attention.mixer = Mixer::kAttention;
    mlp.feed_forward = experts.feed_forward = FeedForward::kMlp;
    experts.moe = moe;
    experts.mlp.ffn_hidden_size = expert_size;
  }

  std::vector<LayerSpec> layers(std::string_view pattern) const {
    std::vector<LayerSpec> result;
    for (const char c : pattern)
      result.push_back(c == kMamba ? mamba : c == kAttention ? attention : c == kMlp ? mlp : experts);
    return result;
  }
};

char symbol(const LayerSpec& layer) {
  if (layer.mixer == Mixer::kMamba) return kMamba;
  if (layer.mixer == Mixer::kAttention) return kAttention;
  return layer.moe ? kExperts : kMlp;
}

std::string pattern_of(const std::vector<LayerSpec>& layers) {
  std::string pattern;
  for (const LayerSpec& layer : layers) pattern += symbol(layer);
  return pattern;
}

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
  if (mamba && has(kinds, kMamba))
    config.fail(
        "\"use_bias\" is true; Megatron's Mamba layers have no place for the biases of in_proj and out_proj");
  if (!attention && !mlp) return false;
  if (has(kinds, kExperts))
    config.fail(
        "\"attention_bias\" or \"mlp_bias\" is true; Megatron's shared experts have no place for biases, and "
        "one switch holds for all layers");
  if (has(kinds, kAttention) && has(kinds, kMlp) && attention != mlp)
    config.fail(
        "\"attention_bias\" and \"mlp_bias\" differ; Megatron has biases in attention and MLP or in neither");
  return (attention && has(kinds, kAttention)) || (mlp && has(kinds, kMlp));
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
  const LayerKinds layers(base, read_mamba(config), has(kinds, kExperts) ? read_experts(config) : default_experts(),
                          config.integer_or("moe_intermediate_size", kDefaultExpertSize));
  arch.layers = layers.layers(pattern);
  if (arch.mtp) {
    arch.mtp->repeated = config.boolean_or("mtp_use_repeated_layer", true);
    arch.mtp->layers = layers.layers(mtp_pattern);
  }
  return arch;
}

namespace {

// The first layer of this kind, of the model or of its multi-token prediction.
const LayerSpec* find_layer(const ArchSpec& arch, char kind) {
  for (const LayerSpec& layer : arch.layers)
    if (symbol(layer) == kind) return &layer;
  if (!arch.mtp) return nullptr;
  for (const LayerSpec& layer : arch.mtp->layers)
    if (symbol(layer) == kind) return &layer;
  return nullptr;
}

}  // namespace

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
  if (const LayerSpec* found = find_layer(arch, kMamba)) {
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
  if (const LayerSpec* found = find_layer(arch, kExperts)) {
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
  if (const LayerSpec* found = find_layer(arch, kMamba)) {
    const MambaSpec& mamba = *found->mamba;
    provider.mamba_num_heads = mamba.num_heads;
    provider.mamba_head_dim = mamba.head_dim;
    provider.mamba_num_groups = mamba.num_groups;
    provider.mamba_state_dim = mamba.state_dim;
    provider.mamba_chunk_size = mamba.chunk_size;
  }
  // A model without experts has those of transformers' defaults in its configuration.
  const LayerSpec* routed = find_layer(arch, kExperts);
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
        c == kMamba || c == kAttention || c == kMlp || c == kExperts,
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

namespace {

// The rows of one layer below a Megatron and a Hugging Face prefix. Every layer has one norm.
std::vector<WeightRule> layer_rules(const std::string& mega, const std::string& hf) {
  const std::string norm = hf + "norm.weight", mixer = hf + "mixer.", mamba = mega + "mixer.";
  const std::string attention = mega + "self_attention.", mlp = mega + "mlp.", shared = mlp + "shared_experts.";
  std::vector<WeightRule> rules = {
      same(mamba + "in_proj.layer_norm_weight", norm),
      same(attention + "linear_qkv.layer_norm_weight", norm),
      same(mlp + "linear_fc1.layer_norm_weight", norm),
      same(mega + "pre_mlp_layernorm.weight", norm),
      same(mamba + "conv1d_weight", mixer + "conv1d.weight"),
      same(mamba + "conv1d_bias", mixer + "conv1d.bias"),
      same(mlp + "router.weight", mixer + "gate.weight"),
      same(mlp + "router.expert_bias", mixer + "gate.e_score_correction_bias"),
      same(mlp + "fc1_latent_proj.weight", mixer + "fc1_latent_proj.weight"),
      same(mlp + "fc2_latent_proj.weight", mixer + "fc2_latent_proj.weight"),
      same(mlp + "experts.linear_fc1.weight*", mixer + "experts.*.up_proj.weight"),
      same(mlp + "experts.linear_fc2.weight*", mixer + "experts.*.down_proj.weight"),
      same(shared + "linear_fc1.weight", mixer + "shared_experts.up_proj.weight"),
      same(shared + "linear_fc2.weight", mixer + "shared_experts.down_proj.weight"),
  };
  for (const char* part : {"dt_bias", "A_log", "D", "in_proj.weight", "norm.weight", "out_proj.weight"})
    rules.push_back(same(mamba + part, mixer + part));
  for (const char* part : {"weight", "bias"}) {
    rules.push_back(query_key_value(attention + "linear_qkv." + part, mixer + "q_proj." + part,
                                    mixer + "k_proj." + part, mixer + "v_proj." + part));
    rules.push_back(same(attention + "linear_proj." + part, mixer + "o_proj." + part));
    rules.push_back(same(mlp + "linear_fc1." + part, mixer + "up_proj." + part));
    rules.push_back(same(mlp + "linear_fc2." + part, mixer + "down_proj." + part));
  }
  return rules;
}

// Hugging Face counts the layers of all depths in one row: [depth, layer, ...] is [depth * layers + layer, ...].
std::vector<int64_t> flat_layer(const ArchSpec& arch, std::span<const int64_t> numbers) {
  const auto layers = static_cast<int64_t>(arch.mtp.value().layers.size());
  std::vector<int64_t> result(numbers.begin() + 1, numbers.end());
  result.at(0) += numbers[0] * layers;
  return result;
}

// What stands before a depth's layers is with the first of them, what stands behind with the last.
std::vector<int64_t> first_layer(const ArchSpec& arch, std::span<const int64_t> numbers) {
  return {numbers[0] * static_cast<int64_t>(arch.mtp.value().layers.size())};
}

std::vector<int64_t> last_layer(const ArchSpec& arch, std::span<const int64_t> numbers) {
  return {(numbers[0] + 1) * static_cast<int64_t>(arch.mtp.value().layers.size()) - 1};
}

WeightRule numbered(WeightRule rule, NumberMap numbers) {
  rule.numbers = numbers;
  return rule;
}

}  // namespace

std::vector<WeightRule> hybrid_rules() {
  const std::string mtp = "mtp.layers.*.", last = mtp + "final_layernorm.weight";
  std::vector<WeightRule> rules = {
      same("embedding.word_embeddings.weight", "backbone.embeddings.weight"),
      same("decoder.final_norm.weight", "backbone.norm_f.weight"),
      same("output_layer.weight", "lm_head.weight"),
      numbered(same(last, last), last_layer),
  };
  for (const char* name : {"enorm.weight", "hnorm.weight", "eh_proj.weight"})
    rules.push_back(numbered(same(mtp + name, mtp + name), first_layer));
  for (WeightRule& rule : layer_rules("decoder.layers.*.", "backbone.layers.*.")) rules.push_back(std::move(rule));
  for (WeightRule& rule : layer_rules(mtp + "mtp_model_layer.layers.*.", mtp))
    rules.push_back(numbered(std::move(rule), flat_layer));
  return rules;
}

}  // namespace viaduct::models
