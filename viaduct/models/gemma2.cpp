// Gemma 2: Gemma with norms behind attention and MLP, soft caps, and a sliding window on every other layer.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(
      config,
      {.max_positions = 8192, .tied = true, .head_dim = 256, .kv_heads = 4, .activation = "gelu_pytorch_tanh"});
  arch.norm.zero_centered = true;
  arch.embedding.scaled_by_sqrt_hidden = true;
  const auto cap = [&](const char* key, double fallback) -> std::optional<double> {
    if (!config.document().contains(key)) return fallback;
    return config.optional_number(key);
  };
  arch.final_logit_softcap = cap("final_logit_softcapping", 30.0);
  for (LayerSpec& layer : arch.layers) {
    layer.post_attention_norm = layer.post_mlp_norm = true;
    // The old "hidden_act" is not read: "gelu" there means the tanh form.
    if (!config.has("hidden_activation")) layer.mlp.activation = Activation::kGeluTanh;
    layer.attention.logit_softcap = cap("attn_logit_softcapping", 50.0);
    layer.attention.query_scale_dim = config.number_or("query_pre_attn_scalar", 256);
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
  }
  set_windows(config, arch, config.integer_or("sliding_window", 4096), [](size_t layer) { return layer % 2 == 0; });
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const AttentionSpec& attention = arch.layers[0].attention;
  const auto optional = [](const std::optional<double>& value) { return value ? Json(*value) : Json(); };
  config.set("attention_bias", attention.qkv_bias);
  config.set("attn_logit_softcapping", optional(attention.logit_softcap));
  config.set("final_logit_softcapping", optional(arch.final_logit_softcap));
  config.set("hidden_activation", activation_name(arch.layers[0].mlp.activation));
  config.set("query_pre_attn_scalar", static_cast<int64_t>(attention.query_scale_dim.value_or(attention.head_dim)));
  config.set("sliding_window", attention.window ? Json(*attention.window) : Json());
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  const AttentionSpec& attention = arch.layers[0].attention;
  provider.target = "megatron.bridge.models.gemma.gemma2_provider.Gemma2ModelProvider";
  provider.set_layer_spec("megatron.bridge.models.gemma.gemma2_provider.gemma2_layer_spec");
  // Which layers have the window is fixed in upstream's layer spec.
  set_provider_window(provider, attention.window);
  provider.window_attn_skip_freq.reset();
  provider.attn_logit_softcapping = attention.logit_softcap;
  provider.final_logit_softcapping = arch.final_logit_softcap;
  provider.query_pre_attn_scalar = static_cast<int64_t>(attention.query_scale_dim.value_or(attention.head_dim));
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("Gemma2ModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  arch.embedding.scaled_by_sqrt_hidden = true;
  arch.final_logit_softcap = provider.final_logit_softcapping;
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    LayerSpec& layer = arch.layers[i];
    layer.post_attention_norm = layer.post_mlp_norm = true;
    layer.attention.logit_softcap = provider.attn_logit_softcapping;
    if (provider.query_pre_attn_scalar) layer.attention.query_scale_dim = *provider.query_pre_attn_scalar;
    if (i % 2 == 1) layer.attention.window.reset();
  }
}

}  // namespace

Family gemma2_family() {
  const std::string mega = "decoder.layers.*.", hf = "model.layers.*.";
  WeightTable weights;
  weights.add(decoder_rules())
      .add(same(mega + "mlp.linear_fc1.layer_norm_weight", hf + "pre_feedforward_layernorm.weight"))
      .add(same(mega + "mlp.linear_fc2.post_layernorm.weight", hf + "post_feedforward_layernorm.weight"))
      .add(same(mega + "self_attention.linear_proj.post_layernorm.weight", hf + "post_attention_layernorm.weight"))
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "gemma2",
      .title = "Gemma 2",
      .architecture = "Gemma2ForCausalLM",
      .model_type = "gemma2",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0,
        "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16", "final_logit_softcapping": 30.0, "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 80, "initializer_range": 0.02,
        "intermediate_size": 160, "max_position_embeddings": 256, "num_attention_heads": 4, "num_hidden_layers": 4,
        "num_key_value_heads": 2, "pad_token_id": 0, "query_pre_attn_scalar": 24, "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "sliding_window": 6,
        "tie_word_embeddings": true, "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"gemma-2-2b", "google/gemma-2-2b",
               R"({"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
                   "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
                   "vocab_size": 256000, "max_position_embeddings": 8192})"},
              {"gemma-2-9b", "google/gemma-2-9b",
               R"({"hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16,
                   "num_key_value_heads": 8, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
                   "vocab_size": 256000, "max_position_embeddings": 8192})"},
              {"gemma-2-27b", "google/gemma-2-27b",
               R"({"hidden_size": 4608, "intermediate_size": 36864, "num_hidden_layers": 46, "num_attention_heads": 32,
                   "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 144, "sliding_window": 4096,
                   "vocab_size": 256000, "max_position_embeddings": 8192})"},
          },
  };
}

}  // namespace viaduct::models
