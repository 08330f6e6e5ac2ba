// Qwen2 and Qwen2.5: Llama with biases on query, key and value.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {.max_positions = 32768, .kv_heads = 32});
  for (LayerSpec& layer : arch.layers) layer.attention.qkv_bias = true;
  if (config.boolean_or("use_sliding_window", false)) {
    const int64_t first = config.integer_or("max_window_layers", 28);
    set_windows(config, arch, config.integer_or("sliding_window", 4096),
                [first](size_t layer) { return static_cast<int64_t>(layer) >= first; });
  }
  return arch;
}

void write_config(const ArchSpec&, Json& config) { config.set("use_sliding_window", false); }

void set_provider(const ArchSpec&, config::ModelConfig& provider) {
  provider.autocast_dtype = DType::kBF16;  // upstream's, also where the weights are not bf16
}

bool recognises(const config::ModelConfig& provider) {
  return (provider.target.find("GPTModelProvider") != std::string::npos && provider.add_qkv_bias &&
          !provider.add_bias_linear && !provider.qk_layernorm && !provider.num_moe_experts) ||
         provider.target.find("Qwen2ModelProvider") != std::string::npos ||
         provider.target.find("Qwen25ModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec&) {}

}  // namespace

Family qwen2_family() {
  WeightTable weights;
  weights.add(decoder_rules()).derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "qwen2",
      .title = "Qwen2, Qwen2.5",
      .architecture = "Qwen2ForCausalLM",
      .model_type = "qwen2",
      .toy_config = R"({"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
        "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160,
        "max_position_embeddings": 256, "max_window_layers": 28, "num_attention_heads": 4, "num_hidden_layers": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "sliding_window": null,
        "tie_word_embeddings": false, "use_cache": true, "use_sliding_window": false, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B",
               R"({"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                   "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
                   "tie_word_embeddings": true})"},
              {"qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B",
               R"({"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                   "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 131072,
                   "tie_word_embeddings": true})"},
              {"qwen2.5-7b", "Qwen/Qwen2.5-7B",
               R"({"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 131072})"},
              {"qwen2.5-32b", "Qwen/Qwen2.5-32B",
               R"({"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
                   "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 131072,
                   "rms_norm_eps": 1e-05})"},
              {"qwen2.5-72b", "Qwen/Qwen2.5-72B",
               R"({"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 131072,
                   "rms_norm_eps": 1e-05})"},
          },
  };
}

}  // namespace viaduct::models
