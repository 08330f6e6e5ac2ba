#include "viaduct/models/gemma3_text.h"

#include <cmath>

#include "viaduct/models/decoder.h"
#include "viaduct/models/hf_defaults.h"

namespace viaduct::models {

namespace {

// What transformers' class assumes for absent keys; the published configurations of the larger models rely on it.
constexpr std::string_view kDefaults = R"({"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
  "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
  "sliding_window": 4096})";
constexpr int64_t kUsualPeriod = 6;  // every so-manieth layer sees everything

RopeSpec read_rope(const HfConfig& config) {
  RopeSpec rope;
  const HfConfig parameters = config.has("rope_parameters") ? config.child("rope_parameters") : config;
  if (parameters.has("full_attention") || parameters.has("sliding_attention")) {
    const auto of = [&](const char* layers) {
      const Json* inner = parameters.has(layers) ? parameters.document().find(layers) : nullptr;
      return with(config, "rope_parameters", inner ? *inner : Json::object());
    };
    rope = of("full_attention").rope(1e6);
    const RopeSpec local = of("sliding_attention").rope(10000.0);
    if (local.scaling != RopeScaling::kNone)
      config.fail("the rope of the layers with a window is scaled, which no Megatron model has");
    rope.local_theta = local.theta;
  } else {
    rope = config.rope(1e6);
    rope.local_theta = config.number_or("rope_local_base_freq", 10000.0);
  }
  if (rope.scaling != RopeScaling::kNone && rope.scaling != RopeScaling::kLinear)
    config.fail("Megatron's Gemma 3 has no rope scaling but \"linear\"");
  return rope;
}

// The period of the windows: layer i has none when (i + 1) divides by it. None: there is no such period.
std::optional<int64_t> window_period(const ArchSpec& arch) {
  int64_t period = 0;
  for (int64_t i = 0; i < arch.num_layers() && period == 0; ++i)
    if (!arch.layers[static_cast<size_t>(i)].attention.window) period = i + 1;
  if (period == 0) return std::max(kUsualPeriod, arch.num_layers() + 1);
  for (int64_t i = 0; i < arch.num_layers(); ++i)
    if (arch.layers[static_cast<size_t>(i)].attention.window.has_value() != ((i + 1) % period != 0))
      return std::nullopt;
  return period;
}

}  // namespace

ArchSpec read_gemma3_text(const HfConfig& given) {
  const HfConfig config = with_defaults(given, kDefaults);
  ArchSpec arch =
      read_decoder_config(config, {.max_positions = 131072, .tied = true, .activation = "gelu_pytorch_tanh"});
  for (const char* cap : {"attn_logit_softcapping", "final_logit_softcapping"})
    if (config.has(cap)) config.fail(fmt::format("\"{}\" is set, which Megatron's Gemma 3 does not have", cap));
  if (config.boolean_or("use_bidirectional_attention", false))
    config.fail("\"use_bidirectional_attention\" is set; Megatron's Gemma 3 looks back only");
  arch.norm.zero_centered = true;
  arch.rope = read_rope(config);
  arch.embedding.scaled_by_sqrt_hidden = true;
  for (LayerSpec& layer : arch.layers) {
    layer.post_attention_norm = layer.post_mlp_norm = true;
    layer.attention.qk_norm = QkNorm::kPerHead;
    layer.attention.query_scale_dim = config.number_or("query_pre_attn_scalar", 256);
    layer.attention.qkv_bias = layer.attention.output_bias = config.boolean_or("attention_bias", false);
  }
  const auto period =
      static_cast<size_t>(std::max<int64_t>(1, config.integer_or("sliding_window_pattern", kUsualPeriod)));
  set_windows(config, arch, config.integer("sliding_window"), [&](size_t i) { return (i + 1) % period != 0; });
  if (!window_period(arch))
    config.fail(
        "\"layer_types\" has no period: Megatron's Gemma 3 has windows on N layers, then a layer without one, "
        "again and again");
  return arch;
}

void write_gemma3_text(const ArchSpec& arch, Json& config) {
  const AttentionSpec& attention = arch.layers[0].attention;
  Json types = Json::array(), rope = Json::object(), local = Json::object();
  std::optional<int64_t> window;
  for (const LayerSpec& layer : arch.layers) {
    types.items().push_back(Json(layer.attention.window ? "sliding_attention" : "full_attention"));
    if (layer.attention.window) window = layer.attention.window;
  }
  local.set("rope_theta", arch.rope.local_theta.value_or(10000.0));
  local.set("rope_type", "default");
  rope.set("full_attention", config.at("rope_parameters"));
  rope.set("sliding_attention", std::move(local));
  config.set("attention_bias", attention.qkv_bias);
  config.set("hidden_activation", activation_name(arch.layers[0].mlp.activation));
  config.set("layer_types", std::move(types));
  const double scalar = attention.query_scale_dim.value_or(static_cast<double>(attention.head_dim));
  config.set("query_pre_attn_scalar", scalar == std::floor(scalar) && std::abs(scalar) < 1e15
                                          ? Json(static_cast<int64_t>(scalar))
                                          : Json(scalar));
  config.set("rope_local_base_freq", arch.rope.local_theta.value_or(10000.0));
  config.set("rope_parameters", std::move(rope));
  config.set("sliding_window", window.value_or(4096));
  config.set("sliding_window_pattern", window_period(arch).value_or(kUsualPeriod));
}

void set_gemma3_text_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  const AttentionSpec& attention = arch.layers[0].attention;
  provider.set_layer_spec("megatron.bridge.models.gemma.gemma3_provider.gemma3_layer_spec");
  // The window as Hugging Face has it; upstream's attention takes one off.
  provider.window_attn_skip_freq.reset();
  provider.window_size.reset();
  for (const LayerSpec& layer : arch.layers)
    if (layer.attention.window) provider.window_size = *layer.attention.window;
  provider.interleaved_attn_pattern = {window_period(arch).value_or(kUsualPeriod) - 1, 1};
  provider.rotary_base = config::Numbers{arch.rope.local_theta.value_or(10000.0), arch.rope.theta};
  provider.seq_len_interpolation_factor.reset();
  provider.rope_scaling_factor = config::Number(arch.rope.factor);
  provider.softmax_scale =
      config::Number(1.0 / std::sqrt(attention.query_scale_dim.value_or(static_cast<double>(attention.head_dim))));
}

void read_gemma3_text_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  arch.embedding.scaled_by_sqrt_hidden = true;
  arch.norm.zero_centered = true;
  if (const auto* bases = std::get_if<config::Numbers>(&provider.rotary_base); bases && bases->size() == 2) {
    arch.rope.local_theta = (*bases)[0];
    arch.rope.theta = (*bases)[1];
  }
  arch.rope.factor = provider.rope_scaling_factor;
  if (arch.rope.factor != 1.0) arch.rope.scaling = RopeScaling::kLinear;
  std::optional<int64_t> window;
  if (provider.window_size) {
    // Some releases write (window, 0).
    const auto* sides = std::get_if<config::Ints>(&*provider.window_size);
    window = !sides ? std::get<int64_t>(*provider.window_size) : sides->empty() ? 0 : (*sides)[0];
  }
  int64_t period = 0;
  for (const int64_t part : provider.interleaved_attn_pattern)
    if (part > 0 && part <= 100000) period += part;
  for (size_t i = 0; i < arch.layers.size(); ++i) {
    LayerSpec& layer = arch.layers[i];
    layer.post_attention_norm = layer.post_mlp_norm = true;
    layer.attention.window = period > 0 && (static_cast<int64_t>(i) + 1) % period == 0 ? std::nullopt : window;
    if (!provider.softmax_scale) continue;
    const double scale = *provider.softmax_scale, dim = 1.0 / (scale * scale);
    layer.attention.query_scale_dim = std::abs(dim - std::round(dim)) < 1e-9 ? std::round(dim) : dim;
  }
}

std::vector<WeightRule> gemma3_text_rules() {
  const std::string mega = "decoder.layers.*.", hf = "model.layers.*.";
  std::vector<WeightRule> rules = decoder_rules();
  rules.push_back(same(mega + "mlp.linear_fc1.layer_norm_weight", hf + "pre_feedforward_layernorm.weight"));
  rules.push_back(same(mega + "mlp.linear_fc2.post_layernorm.weight", hf + "post_feedforward_layernorm.weight"));
  rules.push_back(
      same(mega + "self_attention.linear_proj.post_layernorm.weight", hf + "post_attention_layernorm.weight"));
  return rules;
}

}  // namespace viaduct::models
