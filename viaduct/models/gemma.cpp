// Gemma 1: norms stored as gamma - 1, embeddings scaled by sqrt(hidden), tanh GELU, always tied.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(
      config,
      {.max_positions = 8192, .tied = true, .head_dim = 256, .kv_heads = 16, .activation = "gelu_pytorch_tanh"});
  arch.norm.zero_centered = true;
  arch.embedding.scaled_by_sqrt_hidden = true;
  for (LayerSpec& layer : arch.layers) {
    // transformers computes tanh GELU whatever the old "hidden_act": "gelu" says.
    layer.mlp.activation = Activation::kGeluTanh;
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
  }
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  config.set("attention_bias", arch.layers[0].attention.qkv_bias);
  config.set("hidden_activation", "gelu_pytorch_tanh");
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.autocast_dtype = DType::kBF16;  // upstream's, also where the weights are not bf16
  provider.target = "megatron.bridge.models.gemma.gemma_provider.GemmaModelProvider";
  provider.set_attention_backend("flash");
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("GemmaModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec& arch) { arch.embedding.scaled_by_sqrt_hidden = true; }

}  // namespace

Family gemma_family() {
  WeightTable weights;
  weights.add(decoder_rules()).derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "gemma",
      .title = "Gemma",
      .architecture = "GemmaForCausalLM",
      .model_type = "gemma",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "bfloat16", "head_dim": 32, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 80, "initializer_range": 0.02,
        "intermediate_size": 160, "max_position_embeddings": 256, "num_attention_heads": 4, "num_hidden_layers": 4,
        "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": true,
        "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"gemma-2b", "google/gemma-2b",
               R"({"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8,
                   "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000,
                   "max_position_embeddings": 8192})"},
              {"gemma-7b", "google/gemma-7b",
               R"({"hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
                   "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000,
                   "max_position_embeddings": 8192})"},
          },
  };
}

}  // namespace viaduct::models
