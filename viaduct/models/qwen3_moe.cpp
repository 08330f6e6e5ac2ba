// Qwen3 mixture of experts: Qwen3's attention, every layer routed.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {.max_positions = 32768, .kv_heads = 4});
  MoeSpec moe;
  moe.num_experts = config.has("num_experts") ? config.integer("num_experts") : config.integer("num_local_experts");
  moe.top_k = config.integer("num_experts_per_tok");
  moe.softmax_before_top_k = !config.boolean_or("norm_topk_prob", false);
  moe.aux_loss_coeff = config.number_or("router_aux_loss_coef", 0.001);
  const int64_t expert_size = config.integer("moe_intermediate_size");
  const int64_t step = config.integer_or("decoder_sparse_step", 1);
  if (step < 1) config.fail(fmt::format("\"decoder_sparse_step\" is {}, not 1 or more", step));
  std::optional<int64_t> window;
  if (config.boolean_or("use_sliding_window", false)) {
    const bool absent = !config.document().contains("sliding_window");
    window = absent ? std::optional<int64_t>(4096) : config.optional_integer("sliding_window");
  }
  std::vector<bool> dense(arch.layers.size());
  if (config.has("mlp_only_layers")) {
    for (const Json& layer : config.document().at("mlp_only_layers").items()) {
      const int64_t i = layer.as_int();
      if (i < 0 || i >= arch.num_layers()) config.fail(fmt::format("\"mlp_only_layers\" names layer {}", i));
      dense[static_cast<size_t>(i)] = true;
    }
  }
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    LayerSpec& layer = arch.layers[i];
    layer.attention.qk_norm = QkNorm::kPerHead;
    layer.attention.window = window;
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
    if (dense[i] || (static_cast<int64_t>(i) + 1) % step != 0) continue;
    layer.moe = moe;
    layer.mlp.ffn_hidden_size = expert_size;
  }
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  Json dense = Json::array();
  const LayerSpec* routed = nullptr;
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    if (arch.layers[i].moe) {
      routed = &arch.layers[i];
    } else {
      dense.items().push_back(Json(static_cast<int64_t>(i)));
    }
  }
  config.set("attention_bias", arch.layers[0].attention.qkv_bias);
  config.set("decoder_sparse_step", 1);
  config.set("mlp_only_layers", std::move(dense));
  config.set("moe_intermediate_size", routed ? routed->mlp.ffn_hidden_size : 0);
  config.set("norm_topk_prob", routed && !routed->moe->softmax_before_top_k);
  config.set("num_experts", routed ? routed->moe->num_experts : 0);
  config.set("num_experts_per_tok", routed ? routed->moe->top_k : 0);
  config.set("router_aux_loss_coef", routed ? routed->moe->aux_loss_coeff : 0.0);
  const auto& window = arch.layers[0].attention.window;
  config.set("sliding_window", window ? Json(*window) : Json());
  config.set("use_sliding_window", window.has_value());
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.autocast_dtype = DType::kBF16;  // upstream's, also where the weights are not bf16
  provider.moe_router_load_balancing_type = "aux_loss";
}

bool recognises(const config::ModelConfig& provider) {
  return (provider.target.find("GPTModelProvider") != std::string::npos && provider.num_moe_experts &&
          provider.qk_layernorm && provider.layer_spec_name() == "default_layer_spec") ||
         provider.target.find("Qwen3MoEModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec&) {}

}  // namespace

Family qwen3_moe_family() {
  WeightTable weights;
  weights.add(decoder_rules())
      .add(expert_rules())
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "qwen3_moe",
      .title = "Qwen3-MoE",
      .architecture = "Qwen3MoeForCausalLM",
      .model_type = "qwen3_moe",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_sparse_step": 1, "dtype": "bfloat16", "head_dim": 32, "hidden_act": "silu", "hidden_size": 64,
        "initializer_range": 0.02, "intermediate_size": 160, "max_position_embeddings": 256, "mlp_only_layers": [],
        "moe_intermediate_size": 48, "norm_topk_prob": true, "num_attention_heads": 4, "num_experts": 8,
        "num_experts_per_tok": 2, "num_hidden_layers": 4, "num_key_value_heads": 2, "output_router_logits": false,
        "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false, "use_cache": true,
        "use_sliding_window": false, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B",
               R"({"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
                   "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
                   "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
                   "max_position_embeddings": 40960})"},
              {"qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B",
               R"({"hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536,
                   "num_hidden_layers": 94, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128,
                   "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
                   "max_position_embeddings": 40960})"},
          },
  };
}

}  // namespace viaduct::models
