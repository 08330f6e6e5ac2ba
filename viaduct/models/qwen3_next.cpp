// Qwen3-Next: gated DeltaNet on most layers, gated attention on the others, experts with a gated shared one on all,
// norms stored as gamma - 1, and multi-token prediction that config.json need not mention.
#include "viaduct/models/decoder.h"
#include "viaduct/models/delta_net.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

constexpr const char* kLayerSpec =
    "megatron.core.models.gpt.experimental_attention_variant_module_specs."
    "get_transformer_block_with_experimental_attention_variant_spec";

// Which layers have linear attention.
std::vector<bool> linear_layers(const HfConfig& config, size_t count) {
  std::vector<bool> linear(count);
  if (config.has("layer_types")) {
    const std::vector<Json>& types = config.document().at("layer_types").items();
    if (types.size() != count)
      config.fail(fmt::format("\"layer_types\" has {} entries for {} layers", types.size(), count));
    for (size_t i = 0; i < count; ++i) {
      linear[i] = types[i].as_string() == "linear_attention";
      if (!linear[i] && types[i].as_string() != "full_attention")
        config.fail(fmt::format("\"layer_types\" has \"{}\"; known are linear_attention and full_attention",
                                types[i].as_string()));
    }
    return linear;
  }
  const int64_t interval = config.integer_or("full_attention_interval", 4);
  if (interval < 1) config.fail(fmt::format("\"full_attention_interval\" is {}, not 1 or more", interval));
  for (size_t i = 0; i < count; ++i) linear[i] = (static_cast<int64_t>(i) + 1) % interval != 0;
  return linear;
}

// Layers without experts.
std::vector<bool> dense_layers(const HfConfig& config, size_t count) {
  const int64_t step = config.integer_or("decoder_sparse_step", 1);
  if (step < 1) config.fail(fmt::format("\"decoder_sparse_step\" is {}, not 1 or more", step));
  std::vector<bool> dense(count);
  for (size_t i = 0; i < count; ++i) dense[i] = (static_cast<int64_t>(i) + 1) % step != 0;
  for (const int64_t layer : config.integers("mlp_only_layers")) {
    if (layer < 0 || layer >= static_cast<int64_t>(count))
      config.fail(fmt::format("\"mlp_only_layers\" names layer {} of {}", layer, count));
    dense[static_cast<size_t>(layer)] = true;
  }
  return dense;
}

// The layer of multi-token prediction is a full attention layer with experts.
MtpSpec mtp_of(const HfConfig& config, const ArchSpec& arch, int64_t depth) {
  if (depth != 1)
    config.fail(fmt::format("{} layers of multi-token prediction have no Megatron form, only one", depth));
  const LayerSpec& last = arch.layers.back();
  if (!last.has_attention() || !last.moe)
    config.fail(
        "multi-token prediction has no Megatron form here: Megatron makes its layer like the model's last, "
        "which must have full attention and experts");
  return {depth, false, {last}};
}

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {.max_positions = 32768, .head_dim = 256, .kv_heads = 2});
  const bool has_share =
      config.has("partial_rotary_factor") ||
      (config.has("rope_parameters") && config.document().at("rope_parameters").contains("partial_rotary_factor"));
  if (!has_share) arch.rope.rotary_percent = 0.25;
  arch.norm.zero_centered = true;
  arch.per_layer_keys = true;
  const DeltaNetSpec net = read_delta_net(config);
  MoeSpec moe;
  moe.num_experts = config.integer_or("num_experts", 512);
  moe.top_k = config.integer_or("num_experts_per_tok", 10);
  moe.softmax_before_top_k = !config.boolean_or("norm_topk_prob", true);
  moe.router_in_fp32 = true;
  moe.balancing = RouterBalancing::kGlobalAuxLoss;
  moe.aux_loss_coeff = config.number_or("router_aux_loss_coef", 0.001);
  moe.shared_ffn_size = config.integer_or("shared_expert_intermediate_size", 512);
  moe.shared_gate = true;
  const std::vector<bool> linear = linear_layers(config, arch.layers.size());
  const std::vector<bool> dense = dense_layers(config, arch.layers.size());
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    LayerSpec& layer = arch.layers[i];
    layer.attention.qk_norm = QkNorm::kPerHead;
    layer.attention.output_gate = true;
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
    if (linear[i]) {
      layer.mixer = Mixer::kDeltaNet;
      layer.delta_net = net;
    }
    if (dense[i]) continue;
    layer.moe = moe;
    layer.mlp.ffn_hidden_size = config.integer_or("moe_intermediate_size", 512);
  }
  if (const int64_t depth = config.integer_or("mtp_num_hidden_layers", 0); depth != 0)
    arch.mtp = mtp_of(config, arch, depth);
  return arch;
}

// The file decides: public ones have mtp.* without a word in config.json, and transformers drops mtp.* when it
// saves.
void read_tensors(const HfConfig& config, const TensorShapes& shapes, ArchSpec& arch) {
  if (!shapes("model.embed_tokens.weight")) return;  // the file's list is not known
  if (!shapes("mtp.fc.weight")) {
    arch.mtp.reset();
  } else if (!arch.mtp) {
    arch.mtp = mtp_of(config, arch, 1);
  }
}

void write_config(const ArchSpec& arch, Json& config) {
  Json types = Json::array(), dense = Json::array();
  DeltaNetSpec net;
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    const LayerSpec& layer = arch.layers[i];
    types.items().push_back(layer.has_attention() ? "full_attention" : "linear_attention");
    if (!layer.moe) dense.items().push_back(Json(static_cast<int64_t>(i)));
    if (layer.delta_net) net = *layer.delta_net;
  }
  const LayerSpec* routed = arch.moe_layer();
  const MoeSpec moe = routed ? *routed->moe : MoeSpec{};
  config.set("attention_bias", arch.attention_layer().attention.qkv_bias);
  config.set("decoder_sparse_step", 1);
  config.set("layer_types", std::move(types));
  write_delta_net(net, config);
  config.set("mlp_only_layers", std::move(dense));
  config.set("moe_intermediate_size", routed ? routed->mlp.ffn_hidden_size : 0);
  if (arch.mtp) config.set("mtp_num_hidden_layers", arch.mtp->depth);
  config.set("norm_topk_prob", !moe.softmax_before_top_k);
  config.set("num_experts", moe.num_experts);
  config.set("num_experts_per_tok", moe.top_k);
  config.set("partial_rotary_factor", arch.rope.rotary_percent);
  config.set("router_aux_loss_coef", moe.aux_loss_coeff);
  config.set("shared_expert_intermediate_size", moe.shared_ffn_size.value_or(0));
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.autocast_dtype = DType::kBF16;              // upstream's, also where the weights are not bf16
  provider.moe_aux_loss_coeff = config::Number(1e-3);  // upstream's, whatever config.json says
  provider.set_layer_spec(kLayerSpec);
  provider.experimental_attention_variant = "gated_delta_net";
  provider.hetereogenous_dist_checkpoint = true;
  config::Ints linear;
  bool dense = false;
  for (const LayerSpec& layer : arch.layers) {
    linear.push_back(layer.delta_net ? 1 : 0);
    dense |= !layer.moe;
    if (layer.delta_net) set_delta_net_provider(*layer.delta_net, provider);
  }
  provider.linear_attention_freq = std::move(linear);
  if (!dense) provider.moe_layer_freq = 1;  // keys are one a layer without it
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("GPTModelProvider") != std::string::npos &&
         provider.experimental_attention_variant == "gated_delta_net";
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  arch.per_layer_keys = true;
  const DeltaNetSpec net = read_delta_net_provider(provider);
  const config::IntOrInts layers = provider.linear_attention_freq.value_or(config::IntOrInts(int64_t{4}));
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    arch.layers[i].attention.output_bias = arch.layers[i].attention.qkv_bias;
    bool linear = false;
    if (const auto* every = std::get_if<int64_t>(&layers)) {
      linear = *every > 0 && (static_cast<int64_t>(i) + 1) % *every != 0;
    } else {
      const auto& list = std::get<config::Ints>(layers);
      linear = i < list.size() && list[i] != 0;
    }
    if (!linear) continue;
    arch.layers[i].mixer = Mixer::kDeltaNet;
    arch.layers[i].delta_net = net;
  }
  if (arch.mtp) arch.mtp->layers = {arch.layers.back()};
}

WeightTable table() {
  const std::string layer = "decoder.layers.*.", hf_layer = "model.layers.*.", mtp = "mtp.layers.*.";
  WeightTable weights;
  weights.add(decoder_rules())
      .add(expert_rules())
      .add(shared_expert_rules("mlp.shared_expert."))
      .add(same(layer + "mlp.shared_experts.gate_weight", hf_layer + "mlp.shared_expert_gate.weight"));
  std::vector<WeightRule> predicted = {
      same(mtp + "enorm.weight", "mtp.pre_fc_norm_embedding.weight"),
      same(mtp + "hnorm.weight", "mtp.pre_fc_norm_hidden.weight"),
      same(mtp + "eh_proj.weight", "mtp.fc.weight"),
      same(mtp + "final_layernorm.weight", "mtp.norm.weight"),
  };
  for (WeightRule rule : weights.rules()) {
    if (!rule.megatron.starts_with(layer)) continue;
    rule.megatron.replace(0, layer.size(), mtp + "mtp_model_layer.");
    for (std::string& name : rule.hf) name.replace(0, hf_layer.size(), mtp);
    predicted.push_back(std::move(rule));
  }
  weights.add(predicted).add(delta_net_rules());
  weights.derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return weights;
}

}  // namespace

Family qwen3_next_family() {
  return {
      .name = "qwen3_next",
      .title = "Qwen3-Next",
      .architecture = "Qwen3NextForCausalLM",
      .model_type = "qwen3_next",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "decoder_sparse_step": 1, "dtype": "bfloat16", "eos_token_id": 2, "head_dim": 16, "hidden_act": "silu",
        "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 80,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_value_head_dim": 8, "max_position_embeddings": 1024,
        "mlp_only_layers": [], "moe_intermediate_size": 16, "mtp_num_hidden_layers": 1, "norm_topk_prob": true,
        "num_attention_heads": 4, "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 4,
        "num_key_value_heads": 2, "output_router_logits": false, "pad_token_id": null, "partial_rotary_factor": 0.25,
        "rms_norm_eps": 1e-06, "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 10000000.0,
        "rope_type": "default"}, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 24,
        "tie_word_embeddings": false, "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = table(),
      .sizes = {{"qwen3-next-80b-a3b", "Qwen/Qwen3-Next-80B-A3B-Instruct",
                 R"({"hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 48, "layer_types": null,
                     "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "num_experts": 512,
                     "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
                     "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
                     "linear_value_head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 262144})"}},
      .sources = "safetensors, pytorch_model*.bin, torch_dist; with and without mtp.*",
      .read_tensors = read_tensors,
  };
}

}  // namespace viaduct::models
