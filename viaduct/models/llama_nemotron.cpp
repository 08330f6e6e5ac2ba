// Llama Nemotron Super and Ultra: Llama whose layers differ: other sizes, no attention or no MLP at all, or one
// linear layer in the place of either. (Nano and 70B are plain Llama.)
#include <algorithm>

#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"
#include "viaduct/models/hf_defaults.h"
#include "viaduct/models/llama_nemotron_sizes.h"

namespace viaduct::models {
namespace {

using config::Yaml;

constexpr int64_t kFfnUnit = 256;  // the MLP's sizes are rounded up to its multiples

int64_t ffn_size(double multiplier, int64_t hidden_size) {
  const auto size = static_cast<int64_t>(2 * multiplier * static_cast<double>(hidden_size) / 3);
  return (size + kFfnUnit - 1) / kFfnUnit * kFfnUnit;
}

void read_block(const HfConfig& block, int64_t hidden_size, LayerSpec& layer) {
  const HfConfig attention = block.child("attention"), ffn = block.child("ffn");
  for (const char* key : {"num_sink_tokens", "sparsify", "window_length"})
    if (attention.has(key)) attention.fail(fmt::format("\"{}\" is set, which no Megatron model has", key));
  if (ffn.has("sparsify")) ffn.fail("\"sparsify\" is set, which no Megatron model has");
  if (attention.boolean_or("no_op", false)) {
    layer.mixer = Mixer::kNone;
  } else if (attention.boolean_or("replace_with_linear", false)) {
    layer.mixer = Mixer::kLinear;
  } else {
    const int64_t heads = attention.integer("n_heads_in_group");
    if (heads < 1 || layer.attention.num_heads % heads != 0)
      attention.fail(
          fmt::format("\"n_heads_in_group\" {} does not divide {} heads", heads, layer.attention.num_heads));
    layer.attention.num_query_groups = layer.attention.num_heads / heads;
  }
  if (ffn.boolean_or("no_op", false)) {
    layer.feed_forward = FeedForward::kNone;
  } else if (ffn.boolean_or("replace_with_linear", false)) {
    layer.feed_forward = FeedForward::kLinear;
  } else {
    const double multiplier = ffn.number("ffn_mult");
    if (!(multiplier > 0 && multiplier * static_cast<double>(hidden_size) < 1e9))
      ffn.fail(fmt::format("\"ffn_mult\" is {}", multiplier));
    layer.mlp.ffn_hidden_size = ffn_size(multiplier, hidden_size);
  }
}

ArchSpec read_config(const HfConfig& given) {
  // The sizes of blocks stand in their own configuration; these are null then.
  const int64_t hidden = given.integer("hidden_size");
  if (hidden < 1 || hidden > 1 << 28) given.fail(fmt::format("\"hidden_size\" is {}", hidden));
  const HfConfig config = given.has("intermediate_size") ? given : with(given, "intermediate_size", 4 * hidden);
  ArchSpec arch = read_decoder_config(config, {});
  const Json* blocks = config.has("block_configs") ? config.document().find("block_configs") : nullptr;
  if (!blocks || !blocks->is_array())
    config.fail("there is no list \"block_configs\"; a DeciLM model without it has no Megatron form");
  if (static_cast<int64_t>(blocks->items().size()) != arch.num_layers())
    config.fail(
        fmt::format("\"block_configs\" has {} entries for {} layers", blocks->items().size(), arch.num_layers()));
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    LayerSpec& layer = arch.layers[i];
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
    layer.mlp.bias = config.boolean_or("mlp_bias", false);
    read_block({blocks->items()[i], fmt::format("{}: block {}", config.origin(), i)}, arch.hidden_size, layer);
  }
  arch.per_layer_keys = true;
  return arch;
}

Json block_json(const LayerSpec& layer, int64_t hidden_size) {
  Json attention = Json::object(), ffn = Json::object(), block = Json::object();
  const bool attends = layer.has_attention(), mlp = layer.has_mlp();
  attention.set("n_heads_in_group",
                attends ? Json(layer.attention.num_heads / layer.attention.num_query_groups) : Json());
  attention.set("no_op", layer.mixer == Mixer::kNone);
  for (const char* key : {"num_sink_tokens", "sparsify", "window_length"}) attention.set(key, Json());
  attention.set("replace_with_linear", layer.mixer == Mixer::kLinear);
  for (const char* key : {"unshifted_sink", "use_prefill_window_in_sink_attention"}) attention.set(key, false);
  ffn.set(
      "ffn_mult",
      mlp ? Json(1.5 * static_cast<double>(layer.mlp.ffn_hidden_size) / static_cast<double>(hidden_size)) : Json());
  ffn.set("no_op", layer.feed_forward == FeedForward::kNone);
  ffn.set("replace_with_linear", layer.feed_forward == FeedForward::kLinear);
  ffn.set("sparsify", Json());
  block.set("attention", std::move(attention));
  block.set("ffn", std::move(ffn));
  return block;
}

void write_config(const ArchSpec& arch, Json& config) {
  const auto with_mlp =
      std::find_if(arch.layers.begin(), arch.layers.end(), [](const LayerSpec& layer) { return layer.has_mlp(); });
  Json blocks = Json::array();
  for (const LayerSpec& layer : arch.layers) blocks.items().push_back(block_json(layer, arch.hidden_size));
  config.set("attention_bias", arch.attention_layer().attention.qkv_bias);
  config.set("block_configs", std::move(blocks));
  config.set("intermediate_size", Json());
  config.set("mlp_bias", with_mlp != arch.layers.end() && with_mlp->mlp.bias);
  config.set("num_key_value_heads", Json());
  config.set("pretraining_tp", 1);
  // The class is remote code, which knows transformers 4's form.
  config.erase("rope_parameters");
}

Yaml block_yaml(const LayerSpec& layer) {
  const std::string core = "megatron.core.transformer.heterogeneous.heterogeneous_config.";
  const auto optional = [](bool there, int64_t value) { return there ? Yaml(value) : Yaml(); };
  const Yaml attention =
      Yaml::mapping({{"_target_", core + "AttentionConfig"},
                     {"no_op", layer.mixer == Mixer::kNone},
                     {"num_query_groups", optional(layer.has_attention(), layer.attention.num_query_groups)},
                     {"replace_with_linear", layer.mixer == Mixer::kLinear}});
  const Yaml mlp = Yaml::mapping({{"_target_", core + "MLPConfig"},
                                  {"ffn_hidden_size", optional(layer.has_mlp(), layer.mlp.ffn_hidden_size)},
                                  {"no_op", layer.feed_forward == FeedForward::kNone},
                                  {"replace_with_linear", layer.feed_forward == FeedForward::kLinear}});
  return Yaml::mapping({{"_target_", core + "TransformerBlockConfig"}, {"attention", attention}, {"mlp", mlp}});
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.target =
      "megatron.bridge.models.llama_nemotron.llama_nemotron_provider.LlamaNemotronHeterogeneousProvider";
  provider.set_layer_spec("megatron.bridge.models.llama_nemotron.llama_nemotron_provider.heterogeneous_layer_spec");
  provider.autocast_dtype = DType::kBF16;  // upstream's, also where the weights are not bf16
  provider.heterogeneous_block_specs = true;
  provider.per_block_parameters = Yaml::sequence();
  for (const LayerSpec& layer : arch.layers) provider.per_block_parameters.items().push_back(block_yaml(layer));
  provider.apply_rope_fusion = true;
  provider.bias_activation_fusion = true;
  provider.bias_dropout_fusion = true;
  provider.persist_layer_norm = true;
}

Json sorted(const Json& json) {
  if (json.is_array()) {
    Json list = Json::array();
    for (const Json& item : json.items()) list.items().push_back(sorted(item));
    return list;
  }
  if (!json.is_object()) return json;
  std::vector<Json::Member> members = json.members();
  for (auto& [key, value] : members) value = sorted(value);
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return Json::object(std::move(members));
}

// Megatron builds its layers from the whole config.json, as transformers prints it.
void complete_provider(const HfConfig& config, const ArchSpec&, config::ModelConfig& provider) {
  Json document = config.document();
  document.erase("_name_or_path");
  if (const Json* dtype = document.find("torch_dtype")) {
    document.set("dtype", Json(*dtype));
    document.erase("torch_dtype");
  }
  document.set("transformers_version", "5.12.1");  // of the release whose form this is
  provider.heterogeneous_layers_config_encoded_json = sorted(document).dump(2) + "\n";
}

void complete_config(const config::ModelConfig& provider, Json& config) {
  if (provider.heterogeneous_layers_config_encoded_json.empty()) return;
  const Json whole = Json::parse(provider.heterogeneous_layers_config_encoded_json,
                                 "run_config.yaml: model.heterogeneous_layers_config_encoded_json");
  for (const auto& [key, value] : whole.members()) config.set(key, value);
}

bool recognises(const config::ModelConfig& provider) {
  return provider.heterogeneous_block_specs || provider.target.find("Heterogeneous") != std::string::npos;
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  arch.per_layer_keys = true;
  const std::string where = "run_config.yaml: model.per_block_parameters";
  VIADUCT_USER_CHECK(provider.per_block_parameters.is_sequence(), "{} is no list of blocks", where);
  const std::vector<Yaml>& blocks = provider.per_block_parameters.items();
  VIADUCT_USER_CHECK_EQ(blocks.size(), arch.layers.size(), "{} does not fit model.num_layers", where);
  for (size_t i = 0; i < blocks.size(); ++i) {
    LayerSpec& layer = arch.layers[i];
    const Yaml &attention = blocks[i].at("attention"), &mlp = blocks[i].at("mlp");
    layer.attention.qkv_bias |= layer.mlp.bias;
    const bool none = attention.at("no_op").as_bool(), linear = attention.at("replace_with_linear").as_bool();
    layer.mixer = none ? Mixer::kNone : linear ? Mixer::kLinear : Mixer::kAttention;
    if (layer.has_attention() && !attention.at("num_query_groups").is_null())
      layer.attention.num_query_groups = attention.at("num_query_groups").as_int();
    const bool no_mlp = mlp.at("no_op").as_bool(), linear_mlp = mlp.at("replace_with_linear").as_bool();
    layer.feed_forward = no_mlp ? FeedForward::kNone : linear_mlp ? FeedForward::kLinear : FeedForward::kMlp;
    if (layer.has_mlp()) layer.mlp.ffn_hidden_size = mlp.at("ffn_hidden_size").as_int();
  }
}

}  // namespace

Family llama_nemotron_family() {
  const std::string mega = "decoder.layers.*.", hf = "model.layers.*.";
  WeightTable weights;
  weights.add(decoder_rules())
      .add(same(mega + "self_attention.layer_norm_weight", hf + "input_layernorm.weight"))
      .add(same(mega + "self_attention.weight", hf + "self_attn.linear_attn.weight"))
      .add(same(mega + "mlp.layer_norm_weight", hf + "post_attention_layernorm.weight"))
      .add(same(mega + "mlp.weight", hf + "mlp.linear_mlp.weight"))
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "llama_nemotron",
      .title = "Llama Nemotron Super, Ultra",
      .architecture = "DeciLMForCausalLM",
      .model_type = "nemotron-nas",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "block_configs": [
          {"attention": {"n_heads_in_group": 2, "no_op": false, "num_sink_tokens": null, "replace_with_linear": false,
            "sparsify": null, "unshifted_sink": false, "use_prefill_window_in_sink_attention": false,
            "window_length": null}, "ffn": {"ffn_mult": 6.0, "no_op": false, "replace_with_linear": false,
            "sparsify": null}},
          {"attention": {"n_heads_in_group": null, "no_op": true, "num_sink_tokens": null,
            "replace_with_linear": false, "sparsify": null, "unshifted_sink": false,
            "use_prefill_window_in_sink_attention": false, "window_length": null}, "ffn": {"ffn_mult": 12.0,
            "no_op": false, "replace_with_linear": false, "sparsify": null}},
          {"attention": {"n_heads_in_group": 4, "no_op": false, "num_sink_tokens": null, "replace_with_linear": false,
            "sparsify": null, "unshifted_sink": false, "use_prefill_window_in_sink_attention": false,
            "window_length": null}, "ffn": {"ffn_mult": null, "no_op": true, "replace_with_linear": false,
            "sparsify": null}},
          {"attention": {"n_heads_in_group": null, "no_op": false, "num_sink_tokens": null,
            "replace_with_linear": true, "sparsify": null, "unshifted_sink": false,
            "use_prefill_window_in_sink_attention": false, "window_length": null}, "ffn": {"ffn_mult": null,
            "no_op": false, "replace_with_linear": true, "sparsify": null}}],
        "bos_token_id": 1, "dtype": "bfloat16", "eos_token_id": 2, "head_dim": 16, "hidden_act": "silu",
        "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": null, "max_position_embeddings": 512,
        "mlp_bias": false, "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": null,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "rope_theta": 500000.0, "tie_word_embeddings": false, "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes = {{"llama-3.3-nemotron-super-49b", "nvidia/Llama-3_3-Nemotron-Super-49B-v1", llama_nemotron_super()},
                {"llama-3.1-nemotron-ultra-253b", "nvidia/Llama-3_1-Nemotron-Ultra-253B-v1",
                 llama_nemotron_ultra()}},
      .proven =
          "import, export and configuration against Megatron Bridge 0.6.2, which cannot read layers that are "
          "replaced by a linear one: those there and back",
      .complete_provider = complete_provider,
      .complete_config = complete_config,
  };
}

}  // namespace viaduct::models
