// Nemotron (dense): LayerNorm stored as gamma - 1, squared ReLU without a gate, rope on a part of the head.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {.max_positions = 4096, .activation = "relu2"});
  arch.norm = {NormKind::kLayer, config.number_or("norm_eps", 1e-5), true};
  // The class rotates half of the head where the configuration does not say.
  const bool nested = config.has("rope_parameters") && config.child("rope_parameters").has("partial_rotary_factor");
  if (!nested && !config.has("partial_rotary_factor")) arch.rope.rotary_percent = 0.5;
  arch.init_std = config.number_or("initializer_range", 0.0134);
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
    layer.mlp.gated = false;
    layer.mlp.bias = config.boolean_or("mlp_bias", false);
  }
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  config.erase("rms_norm_eps");
  config.set("attention_bias", arch.layers[0].attention.qkv_bias);
  config.set("mlp_bias", arch.layers[0].mlp.bias);
  config.set("norm_eps", arch.norm.eps);
  config.set("partial_rotary_factor", arch.rope.rotary_percent);
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.apply_rope_fusion = true;
  provider.persist_layer_norm = true;
}

bool recognises(const config::ModelConfig& provider) {
  const std::string_view name = config::last_word(provider.target);
  const bool plain = name == "GPTModelProvider" && provider.normalization == "LayerNorm" &&
                     provider.activation_name() == "squared_relu" && !provider.num_moe_experts;
  return plain || name.starts_with("NemotronModelProvider") || name.starts_with("Nemotron3ModelProvider") ||
         name.starts_with("Nemotron4ModelProvider");
}

void read_provider(const config::ModelConfig&, ArchSpec& arch) {
  // Megatron has one switch for all biases; the class has two.
  for (LayerSpec& layer : arch.layers) layer.attention.qkv_bias |= layer.mlp.bias;
}

}  // namespace

Family nemotron_family() {
  const std::string mega = "decoder.layers.*.", hf = "model.layers.*.";
  WeightTable weights;
  weights.add(decoder_rules())
      .add(same("decoder.final_layernorm.bias", "model.norm.bias"))
      .add(same(mega + "self_attention.linear_qkv.layer_norm_bias", hf + "input_layernorm.bias"))
      .add(same(mega + "mlp.linear_fc1.layer_norm_bias", hf + "post_attention_layernorm.bias"))
      .add(same(mega + "mlp.linear_fc1.weight", hf + "mlp.up_proj.weight"))
      .add(same(mega + "mlp.linear_fc1.bias", hf + "mlp.up_proj.bias"))
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"})
      .derived({hf + "self_attn.rotary_emb.inv_freq", DerivedTensor::Kind::kInverseFreq, ""});
  return {
      .name = "nemotron",
      .title = "Nemotron (dense): Minitron, Nemotron-Mini, Nemotron-4",
      .architecture = "NemotronForCausalLM",
      .model_type = "nemotron",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "bfloat16", "head_dim": 32, "hidden_act": "relu2", "hidden_size": 64, "initializer_range": 0.0134,
        "intermediate_size": 160, "max_position_embeddings": 256, "mlp_bias": false, "norm_eps": 1e-05,
        "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2, "partial_rotary_factor": 0.5,
        "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": false, "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"minitron-4b", "nvidia/Minitron-4B-Base",
               R"({"hidden_size": 3072, "intermediate_size": 9216, "num_hidden_layers": 32, "num_attention_heads": 24,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 256000, "max_position_embeddings": 4096})"},
              {"minitron-8b", "nvidia/Minitron-8B-Base",
               R"({"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 48,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 256000, "max_position_embeddings": 4096})"},
              {"nemotron-4-15b", "nvidia/Nemotron-4-15B",
               R"({"hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 32, "num_attention_heads": 48,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 256000, "max_position_embeddings": 4096})"},
              {"nemotron-4-340b", "nvidia/Nemotron-4-340B-Base",
               R"({"hidden_size": 18432, "intermediate_size": 73728, "num_hidden_layers": 96,
                   "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 192, "vocab_size": 256000,
                   "max_position_embeddings": 4096})"},
          },
  };
}

}  // namespace viaduct::models
