// Qwen3 dense: Llama with a norm on each query and key head.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {.max_positions = 32768, .head_dim = 128, .kv_heads = 32});
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qk_norm = QkNorm::kPerHead;
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
  }
  if (config.boolean_or("use_sliding_window", false)) {
    const int64_t first = config.integer_or("max_window_layers", 28);
    set_windows(config, arch, config.integer_or("sliding_window", 4096),
                [first](size_t layer) { return static_cast<int64_t>(layer) >= first; });
  }
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  config.set("attention_bias", arch.layers[0].attention.qkv_bias);
  config.set("use_sliding_window", false);
}

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.autocast_dtype = DType::kBF16;  // upstream's, also where the weights are not bf16
}

bool recognises(const config::ModelConfig& provider) {
  return (provider.target.find("GPTModelProvider") != std::string::npos && provider.qk_layernorm &&
          !provider.num_moe_experts) ||
         provider.target.find("Qwen3ModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec&) {}

}  // namespace

Family qwen3_family() {
  WeightTable weights;
  weights.add(decoder_rules()).derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "qwen3",
      .title = "Qwen3",
      .architecture = "Qwen3ForCausalLM",
      .model_type = "qwen3",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "bfloat16", "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 160, "max_position_embeddings": 256, "max_window_layers": 28, "num_attention_heads": 4,
        "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "sliding_window": null,
        "tie_word_embeddings": true, "use_cache": true, "use_sliding_window": false, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"qwen3-0.6b", "Qwen/Qwen3-0.6B",
               R"({"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
                   "max_position_embeddings": 40960})"},
              {"qwen3-1.7b", "Qwen/Qwen3-1.7B",
               R"({"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
                   "max_position_embeddings": 40960})"},
              {"qwen3-4b", "Qwen/Qwen3-4B",
               R"({"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
                   "max_position_embeddings": 40960})"},
              {"qwen3-8b", "Qwen/Qwen3-8B",
               R"({"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
                   "tie_word_embeddings": false})"},
              {"qwen3-32b", "Qwen/Qwen3-32B",
               R"({"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
                   "tie_word_embeddings": false})"},
          },
  };
}

}  // namespace viaduct::models
