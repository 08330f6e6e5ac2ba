#include "viaduct/models/latent_attention.h"

#include <algorithm>
#include <cmath>

#include "viaduct/core/error.h"

namespace viaduct::models {

ArchSpec read_latent_config(const HfConfig& config, DecoderDefaults defaults) {
  MlaSpec mla;
  mla.kv_lora_rank = config.integer_or("kv_lora_rank", 512);
  // null: one query projection. Absent: transformers' default.
  mla.q_lora_rank = config.document().contains("q_lora_rank") ? config.optional_integer("q_lora_rank") : 1536;
  mla.nope_head_dim = config.integer_or("qk_nope_head_dim", 128);
  mla.rope_head_dim = config.integer_or("qk_rope_head_dim", 64);
  mla.v_head_dim = config.integer_or("v_head_dim", 128);
  defaults.head_dim = mla.rope_head_dim;
  ArchSpec arch = read_decoder_config(config, defaults);
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (config.boolean_or(key, false))
      config.fail(fmt::format("\"{}\" is true; Megatron's latent attention models have no biases", key));
  if (!config.boolean_or("rope_interleave", true))
    config.fail(
        "\"rope_interleave\" is false; Megatron's latent attention rotates neighbouring dimensions, so the model "
        "would give other results there");
  RopeSpec& rope = arch.rope;
  if (rope.scaling != RopeScaling::kNone && rope.scaling != RopeScaling::kYarn)
    config.fail("latent attention knows only the rope types default and yarn in Megatron");
  if (rope.truncate && !*rope.truncate)
    config.fail("yarn with \"truncate\": false has no form in Megatron's latent attention");
  rope.truncate.reset();
  for (LayerSpec& layer : arch.layers) {
    layer.attention.mla = mla;
    layer.attention.head_dim = mla.rope_head_dim;
  }
  return arch;
}

void write_latent_config(const ArchSpec& arch, Json& config) {
  const MlaSpec& mla = arch.attention_layer().attention.mla.value();
  config.set("attention_bias", false);
  config.set("kv_lora_rank", mla.kv_lora_rank);
  config.set("q_lora_rank", mla.q_lora_rank ? Json(*mla.q_lora_rank) : Json());
  config.set("qk_nope_head_dim", mla.nope_head_dim);
  config.set("qk_rope_head_dim", mla.rope_head_dim);
  config.set("rope_interleave", true);
  config.set("v_head_dim", mla.v_head_dim);
}

void set_latent_provider(int64_t vocab_divisor, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.mla_provider.MLAModelProvider";
  provider.make_vocab_size_divisible_by = vocab_divisor;
  provider.cross_entropy_fusion_impl = "te";
  provider.deallocate_pipeline_outputs = false;
}

void copy_rope_numbers(const HfConfig& config, const ArchSpec& arch, config::ModelConfig& provider) {
  if (arch.rope.scaling != RopeScaling::kYarn) return;
  const Json& rope = config.document().at(config.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  const auto copy = [&](const char* key, auto& to) {
    if (const Json* value = rope.find(key); value && value->is_integer()) to = config::Number(value->as_int());
  };
  copy("factor", provider.rotary_scaling_factor);
  copy("beta_fast", provider.beta_fast);
  copy("beta_slow", provider.beta_slow);
  copy("mscale", provider.mscale);
  copy("mscale_all_dim", provider.mscale_all_dim);
}

bool is_latent_provider(const config::ModelConfig& provider) {
  return provider.multi_latent_attention || config::provider_bits(provider.target) == config::kMla;
}

void read_stretched_positions(ArchSpec& arch) {
  if (arch.rope.scaling != RopeScaling::kYarn) return;
  const double stretched = std::floor(static_cast<double>(arch.rope.original_max_positions) * arch.rope.factor);
  if (stretched < 1e12) arch.max_positions = std::max(arch.max_positions, static_cast<int64_t>(stretched));
}

}  // namespace viaduct::models
