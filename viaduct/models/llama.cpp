// Llama 2, 3, 3.1, 3.2, 3.3 and what shares their class (SmolLM2, Nemotron Nano ...).
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {});
  const bool attention_bias = config.boolean_or("attention_bias", false);
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = attention_bias;
    layer.mlp.bias = config.boolean_or("mlp_bias", false);
  }
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  config.set("attention_bias", arch.layers[0].attention.qkv_bias);
  config.set("mlp_bias", arch.layers[0].mlp.bias);
  config.set("pretraining_tp", 1);
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.apply_rope_fusion = true;
  provider.bias_activation_fusion = true;
  provider.bias_dropout_fusion = true;
  provider.persist_layer_norm = true;
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("GPTModelProvider") != std::string::npos ||
         provider.target.find("Llama") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec& arch) {
  // Megatron has one switch for all biases; Llama's class has two.
  for (LayerSpec& layer : arch.layers) layer.attention.qkv_bias |= layer.mlp.bias;
}

}  // namespace

Family llama_family() {
  WeightTable weights;
  weights.add(decoder_rules())
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"})
      .derived({"model.layers.*.self_attn.rotary_emb.inv_freq", DerivedTensor::Kind::kInverseFreq, ""});
  return {
      .name = "llama",
      .title = "Llama 2, 3, 3.1, 3.2, 3.3",
      .architecture = "LlamaForCausalLM",
      .model_type = "llama",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "bfloat16", "head_dim": 16, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 160, "max_position_embeddings": 512, "mlp_bias": false, "num_attention_heads": 4,
        "num_hidden_layers": 4, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": false,
        "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"llama-2-7b", "meta-llama/Llama-2-7b-hf",
               R"({"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32000, "max_position_embeddings": 4096})"},
              {"llama-2-13b", "meta-llama/Llama-2-13b-hf",
               R"({"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
                   "num_key_value_heads": 40, "head_dim": 128, "vocab_size": 32000, "max_position_embeddings": 4096})"},
              {"llama-2-70b", "meta-llama/Llama-2-70b-hf",
               R"({"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000, "max_position_embeddings": 4096})"},
              {"llama-3.1-8b", "meta-llama/Llama-3.1-8B",
               R"({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
                   "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"}})"},
              {"llama-3.1-70b", "meta-llama/Llama-3.1-70B",
               R"({"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
                   "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"}})"},
              {"llama-3.1-405b", "meta-llama/Llama-3.1-405B",
               R"({"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
                   "num_attention_heads": 128, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
                   "max_position_embeddings": 131072,
                   "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"}})"},
              {"llama-3.2-1b", "meta-llama/Llama-3.2-1B",
               R"({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 131072,
                   "tie_word_embeddings": true,
                   "rope_parameters": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"}})"},
              {"llama-3.2-3b", "meta-llama/Llama-3.2-3B",
               R"({"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
                   "tie_word_embeddings": true,
                   "rope_parameters": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"}})"},
          },
  };
}

}  // namespace viaduct::models
