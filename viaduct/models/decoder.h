// What all decoders have in common between config.json, ArchSpec and the provider, written once. Families add
// theirs.
#pragma once

#include "viaduct/config/model_config.h"
#include "viaduct/core/json.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/hf_config.h"

namespace viaduct::models {

/// What transformers' configuration class assumes for keys that a config.json leaves out.
struct DecoderDefaults {
  double norm_eps = 1e-6;
  double rope_theta = 10000.0;
  int64_t max_positions = 2048;
  bool tied = false;
  int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  int64_t kv_heads = 0;  // 0: num_attention_heads
  const char* activation = "silu";
};

/// The fields common to all decoders; every layer the same, dense.
ArchSpec read_decoder_config(const HfConfig& config, const DecoderDefaults& defaults);
/// The config.json of such a decoder, in transformers 5's form with the old keys beside; "architectures" is null.
Json write_decoder_config(const ArchSpec& arch);

/// Sets the provider's fields that follow from ArchSpec for all decoders.
void set_decoder_provider(const ArchSpec& arch, config::ModelConfig& provider);
/// The other way; every layer the same, dense or with experts as the provider says.
ArchSpec read_decoder_provider(const config::ModelConfig& provider);

/// "silu", "gelu", "gelu_pytorch_tanh", "relu2" as config.json has them; UserError for another.
Activation activation_named(const HfConfig& config, const std::string& name);
/// The name that config.json has for it.
std::string_view activation_name(Activation activation);

/// Sets the window of the layers that config.json's layer_types calls "sliding_attention"; without layer_types, of
/// the layers for which `sliding(index)` holds.
template <class Sliding>
void set_windows(const HfConfig& config, ArchSpec& arch, std::optional<int64_t> window, Sliding sliding);

/// The provider's window_size is (left, right): left = positions before the token's own.
void set_provider_window(config::ModelConfig& provider, std::optional<int64_t> window);

template <class Sliding>
void set_windows(const HfConfig& config, ArchSpec& arch, std::optional<int64_t> window, Sliding sliding) {
  const Json* types = config.has("layer_types") ? config.document().find("layer_types") : nullptr;
  if (types && static_cast<int64_t>(types->items().size()) != arch.num_layers())
    config.fail(
        fmt::format("\"layer_types\" has {} entries for {} layers", types->items().size(), arch.num_layers()));
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    const bool slides = types ? types->items()[i].as_string() == "sliding_attention" : sliding(i);
    if (slides) arch.layers[i].attention.window = window;
  }
}

}  // namespace viaduct::models
