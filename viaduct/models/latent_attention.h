// Decoders with multi-head latent attention, as config.json's kv_lora_rank, q_lora_rank, qk_nope_head_dim,
// qk_rope_head_dim and v_head_dim describe it.
#pragma once

#include "viaduct/models/decoder.h"

namespace viaduct::models {

/// read_decoder_config with latent attention in every layer. UserError for what Megatron's latent attention lacks:
/// biases, rotated dimensions that lie in halves, rope scalings other than yarn.
ArchSpec read_latent_config(const HfConfig& config, DecoderDefaults defaults);
/// Sets the members that describe latent attention, which is the same in every layer.
void write_latent_config(const ArchSpec& arch, Json& config);

/// The provider's fields that upstream sets for all such models. `vocab_divisor`: its make_vocab_size_divisible_by.
void set_latent_provider(int64_t vocab_divisor, config::ModelConfig& provider);
/// Family::complete_provider: yarn's numbers are integers where config.json has integers.
void copy_rope_numbers(const HfConfig& config, const ArchSpec& arch, config::ModelConfig& provider);

/// Is it the provider of such a model?
bool is_latent_provider(const config::ModelConfig& provider);
/// The context that yarn stretches the original one to, where the provider's seq_length is only that of training.
void read_stretched_positions(ArchSpec& arch);

}  // namespace viaduct::models
