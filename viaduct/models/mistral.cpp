// Mistral 7B and Small: Llama with a sliding window on every layer where the configuration has one.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"

namespace viaduct::models {
namespace {

ArchSpec read_config(const HfConfig& config) {
  ArchSpec arch = read_decoder_config(config, {.max_positions = 131072, .kv_heads = 8});
  // An absent key means transformers' 4096, null means no window.
  const bool absent = !config.document().contains("sliding_window");
  // It is every layer's: transformers' class reads no layer_types.
  const auto window = absent ? std::optional<int64_t>(4096) : config.optional_integer("sliding_window");
  for (LayerSpec& layer : arch.layers) layer.attention.window = window;
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const auto& window = arch.layers[0].attention.window;
  config.set("sliding_window", window ? Json(*window) : Json());
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.mistral.mistral_provider.MistralModelProvider";
  if (arch.layers[0].attention.window) provider.cp_comm_type = "a2a";
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("MistralModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig&, ArchSpec&) {}

}  // namespace

Family mistral_family() {
  WeightTable weights;
  weights.add(decoder_rules())
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"})
      .derived({"model.layers.*.self_attn.rotary_emb.inv_freq", DerivedTensor::Kind::kInverseFreq, ""});
  return {
      .name = "mistral",
      .title = "Mistral 7B, Mistral Small 3",
      .architecture = "MistralForCausalLM",
      .model_type = "mistral",
      .toy_config = R"({"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
        "head_dim": 16, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160,
        "max_position_embeddings": 256, "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "sliding_window": null, "tie_word_embeddings": false, "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3",
               R"({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32768, "max_position_embeddings": 32768,
                   "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}})"},
              {"mistral-small-24b", "mistralai/Mistral-Small-24B-Base-2501",
               R"({"hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072, "max_position_embeddings": 32768,
                   "rope_parameters": {"rope_theta": 100000000.0, "rope_type": "default"}})"},
          },
  };
}

}  // namespace viaduct::models
