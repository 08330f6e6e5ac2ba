// OLMoE: every layer routed, query and key normed over all heads together.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {.norm_eps = 1e-5});
  // Upstream's provider has an output layer of its own, whatever the configuration says.
  arch.embedding.output_is_copy = arch.embedding.tied;
  arch.embedding.tied = false;
  if (config.has("clip_qkv"))
    config.fail("\"clip_qkv\" is set, which no Megatron model has; only OLMoE models without it can be converted");
  MoeSpec moe;
  moe.num_experts = config.integer_or("num_experts", 64);
  moe.top_k = config.integer_or("num_experts_per_tok", 8);
  moe.softmax_before_top_k = !config.boolean_or("norm_topk_prob", false);
  moe.router_in_fp32 = true;
  moe.balancing = RouterBalancing::kSeqAuxLoss;
  moe.aux_loss_coeff = config.number_or("router_aux_loss_coef", 0.01);
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qk_norm = QkNorm::kFullWidth;
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
    layer.moe = moe;
  }
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const MoeSpec& moe = *arch.layers[0].moe;
  config.erase("head_dim");  // the class has no such field
  config.set("tie_word_embeddings", arch.embedding.output_is_copy);
  config.set("attention_bias", arch.layers[0].attention.qkv_bias);
  config.set("clip_qkv", Json());
  config.set("norm_topk_prob", !moe.softmax_before_top_k);
  config.set("num_experts", moe.num_experts);
  config.set("num_experts_per_tok", moe.top_k);
  config.set("router_aux_loss_coef", moe.aux_loss_coeff);
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.autocast_dtype = DType::kBF16;  // upstream's, also where the weights are not bf16
  provider.set_layer_spec("megatron.bridge.models.olmoe.olmoe_provider.olmoe_layer_spec");
  provider.persist_layer_norm = true;
}

bool recognises(const config::ModelConfig& provider) {
  return provider.layer_spec_name() == "olmoe_layer_spec" ||
         provider.target.find("OlMoEModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec& arch) {
  for (LayerSpec& layer : arch.layers) layer.attention.qk_norm = QkNorm::kFullWidth;
}

}  // namespace

Family olmoe_family() {
  WeightTable weights;
  weights.add(decoder_rules())
      .add(expert_rules())
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "olmoe",
      .title = "OLMoE",
      .architecture = "OlmoeForCausalLM",
      .model_type = "olmoe",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "clip_qkv": null, "dtype": "bfloat16", "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 48, "max_position_embeddings": 256, "norm_topk_prob": false, "num_attention_heads": 4,
        "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 4, "num_key_value_heads": 4,
        "output_router_logits": false, "pad_token_id": 0, "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "router_aux_loss_coef": 0.01,
        "tie_word_embeddings": false, "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"olmoe-1b-7b", "allenai/OLMoE-1B-7B-0924",
               R"({"hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
                   "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 50304,
                   "max_position_embeddings": 4096})"},
          },
  };
}

}  // namespace viaduct::models
