#include "viaduct/models/routed_layers.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::models {

namespace {

// Absent: the class's default. null: there is none.
std::optional<int64_t> integer_or_none(const HfConfig& config, const char* key, std::optional<int64_t> fallback) {
  return config.document().contains(key) ? config.optional_integer(key) : fallback;
}

int64_t num_dense_layers(const ArchSpec& arch) {
  const auto routed = [](const LayerSpec& layer) { return layer.moe.has_value(); };
  return std::find_if(arch.layers.begin(), arch.layers.end(), routed) - arch.layers.begin();
}

void check_router(const HfConfig& config, const MoeSpec& moe) {
  if (const int64_t step = config.integer_or("moe_layer_freq", 1); step != 1)
    config.fail(
        fmt::format("\"moe_layer_freq\" is {}; only 1 is known: every layer behind the dense ones routed", step));
  if (moe.score == RouterScore::kSigmoid && !config.boolean_or("norm_topk_prob", true))
    config.fail(
        "\"norm_topk_prob\" is false; Megatron's sigmoid router always makes the chosen scores sum to 1, so the "
        "model would give other results there");
}

}  // namespace

void read_routed_layers(const HfConfig& config, const RoutedDefaults& defaults, MoeSpec moe, ArchSpec& arch) {
  moe.num_experts =
      config.has("n_routed_experts") ? config.integer("n_routed_experts") : config.integer("num_local_experts");
  moe.top_k = config.integer("num_experts_per_tok");
  moe.groups = integer_or_none(config, "n_group", defaults.groups);
  moe.group_top_k = integer_or_none(config, "topk_group", defaults.group_top_k);
  moe.scaling_factor = config.number_or("routed_scaling_factor", defaults.scaling_factor);
  moe.router_in_fp32 = true;
  moe.balancing = RouterBalancing::kSeqAuxLoss;
  check_router(config, moe);
  const int64_t expert_size = config.integer("moe_intermediate_size");
  const int64_t shared = integer_or_none(config, "n_shared_experts", defaults.shared_experts).value_or(0);
  if (shared > 0) moe.shared_ffn_size = shared * expert_size;

  const int64_t dense =
      integer_or_none(config, "first_k_dense_replace", defaults.first_dense).value_or(defaults.first_dense);
  if (dense < 0) config.fail(fmt::format("\"first_k_dense_replace\" is {}", dense));
  for (int64_t i = dense; i < arch.num_layers(); ++i) {
    LayerSpec& layer = arch.layers[static_cast<size_t>(i)];
    layer.moe = moe;
    layer.mlp.ffn_hidden_size = expert_size;
  }
  if (arch.mtp) arch.mtp->layers = {arch.layers.back()};
  // Megatron is told layer by layer which are routed.
  arch.per_layer_keys = true;
  arch.embedding.output_is_copy = arch.embedding.tied;
  arch.embedding.tied = false;
}

void write_routed_layers(const ArchSpec& arch, Json& config) {
  const auto optional = [](const std::optional<int64_t>& value) { return value ? Json(*value) : Json(); };
  config.set("first_k_dense_replace", num_dense_layers(arch));
  config.set("num_nextn_predict_layers", arch.mtp ? arch.mtp->depth : 0);
  config.set("tie_word_embeddings", arch.embedding.output_is_copy);
  const LayerSpec* routed = arch.moe_layer();
  if (!routed) return;
  const MoeSpec& moe = *routed->moe;
  config.set("moe_intermediate_size", routed->mlp.ffn_hidden_size);
  config.set("moe_layer_freq", 1);
  config.set("n_group", optional(moe.groups));
  config.set("n_routed_experts", moe.num_experts);
  config.set("n_shared_experts", moe.shared_ffn_size ? *moe.shared_ffn_size / routed->mlp.ffn_hidden_size : 0);
  config.set("norm_topk_prob", moe.score == RouterScore::kSigmoid);
  config.set("num_experts_per_tok", moe.top_k);
  config.set("routed_scaling_factor", moe.scaling_factor.value_or(1.0));
  config.set("topk_group", optional(moe.group_top_k));
}

void set_routed_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  config::Partial spec{
      "megatron.core.models.gpt.gpt_layer_specs.get_gpt_decoder_block_spec", {}, config::Yaml::mapping()};
  spec.keywords.set("use_transformer_engine", true);
  provider.transformer_layer_spec = std::move(spec);
  config::Ints pattern;
  for (const LayerSpec& layer : arch.layers) pattern.push_back(layer.moe ? 1 : 0);
  provider.moe_layer_freq = std::move(pattern);
  provider.moe_shared_expert_overlap = true;
  provider.persist_layer_norm = true;
  provider.bias_activation_fusion = true;
  provider.bias_dropout_fusion = true;
}

WeightTable routed_table(const std::vector<WeightRule>& more) {
  std::vector<WeightRule> rules = decoder_rules();
  for (const auto& part : {expert_rules(), shared_expert_rules(), more})
    rules.insert(rules.end(), part.begin(), part.end());
  const std::string embedding = "model.embed_tokens.weight", layer = "model.layers.*.";
  using enum DerivedTensor::Kind;
  WeightTable table;
  table.add(rules)
      .add(mtp_rules(rules))
      .derived({"lm_head.weight", kCopy, embedding})
      .derived({layer + "embed_tokens.weight", kMtpCopy, embedding})
      .derived({layer + "shared_head.head.weight", kMtpCopy, "lm_head.weight"})
      .derived({layer + "self_attn.rotary_emb.inv_freq", kInverseFreq, ""});
  return table;
}

}  // namespace viaduct::models
