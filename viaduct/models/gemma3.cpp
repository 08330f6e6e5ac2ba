// Gemma 3, text only (270M, 1B): query and key norms, windows on five of six layers, and a rope of their own there.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"
#include "viaduct/models/gemma3_text.h"

namespace viaduct::models {
namespace {

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.gemma.gemma3_provider.Gemma3ModelProvider";
  set_gemma3_text_provider(arch, provider);
  provider.set_attention_backend("flash");
}

bool recognises(const config::ModelConfig& provider) {
  return config::last_word(provider.target).starts_with("Gemma3ModelProvider");
}

}  // namespace

Family gemma3_family() {
  WeightTable weights;
  weights.add(gemma3_text_rules())
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return {
      .name = "gemma3",
      .title = "Gemma 3 (text)",
      .architecture = "Gemma3ForCausalLM",
      .model_type = "gemma3_text",
      .toy_config = R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "bfloat16", "head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 80,
        "initializer_range": 0.02, "intermediate_size": 160,
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
          "sliding_attention", "full_attention", "sliding_attention"],
        "max_position_embeddings": 256, "num_attention_heads": 4, "num_hidden_layers": 7, "num_key_value_heads": 2,
        "pad_token_id": 0, "query_pre_attn_scalar": 24, "rms_norm_eps": 1e-06,
        "rope_parameters": {"full_attention": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 8.0},
          "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}},
        "sliding_window": 6, "tie_word_embeddings": true, "use_cache": true, "vocab_size": 256})",
      .read_config = read_gemma3_text,
      .write_config = write_gemma3_text,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_gemma3_text_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"gemma-3-270m", "google/gemma-3-270m",
               R"({"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
                   "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 512,
                   "vocab_size": 262144, "max_position_embeddings": 32768, "layer_types": null,
                   "rope_parameters": null, "rope_theta": 1000000.0})"},
              {"gemma-3-1b", "google/gemma-3-1b-pt",
               R"({"hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4,
                   "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 512,
                   "vocab_size": 262144, "max_position_embeddings": 32768, "layer_types": null,
                   "rope_parameters": null, "rope_theta": 1000000.0})"},
          },
  };
}

}  // namespace viaduct::models
