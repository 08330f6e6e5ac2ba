#include <array>

#include "viaduct/models/decoder.h"

namespace viaduct::models {

namespace {
constexpr std::array<std::pair<std::string_view, Activation>, 8> kActivations = {{
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh},
    {"relu2", Activation::kSquaredRelu},
    {"quick_gelu", Activation::kQuickGelu},
    {"relu", Activation::kRelu},
}};
}  // namespace

Activation activation_named(const HfConfig& config, const std::string& name) {
  for (const auto& [known, activation] : kActivations)
    if (known == name) return activation;
  config.fail(
      fmt::format("the activation \"{}\" has no Megatron form; known are silu, gelu, gelu_pytorch_tanh, "
                  "quick_gelu, relu and relu2",
                  name));
}

std::string_view activation_name(Activation activation) {
  for (const auto& [name, known] : kActivations)
    if (known == activation) return name;
  throw InternalError("an activation without a name");
}

ArchSpec read_decoder_config(const HfConfig& config, const DecoderDefaults& defaults) {
  ArchSpec arch;
  arch.hidden_size = config.integer("hidden_size");
  arch.max_positions = config.integer_or("max_position_embeddings", defaults.max_positions);
  arch.dtype = config.dtype().value_or(DType::kF32);
  arch.norm.eps = config.number_or("rms_norm_eps", defaults.norm_eps);
  arch.rope = config.rope(defaults.rope_theta);
  arch.embedding.vocab_size = config.integer("vocab_size");
  arch.embedding.tied = config.boolean_or("tie_word_embeddings", defaults.tied);
  arch.init_std = config.number_or("initializer_range", 0.02);
  arch.attention_dropout = config.number_or("attention_dropout", 0.0);
  arch.dense_ffn_hidden_size = config.integer("intermediate_size");
  if (const auto depth = config.optional_integer("num_nextn_predict_layers"); depth && *depth > 0)
    arch.mtp = MtpSpec{*depth, false, {}};  // the family fills in its layers

  LayerSpec layer;
  AttentionSpec& attention = layer.attention;
  attention.num_heads = config.integer("num_attention_heads");
  if (attention.num_heads <= 0) config.fail(fmt::format("\"num_attention_heads\" is {}", attention.num_heads));
  attention.num_query_groups =
      config.integer_or("num_key_value_heads", defaults.kv_heads ? defaults.kv_heads : attention.num_heads);
  if (config.has("head_dim")) {
    attention.head_dim = config.integer("head_dim");
  } else if (defaults.head_dim) {
    attention.head_dim = defaults.head_dim;
  } else {
    if (arch.hidden_size % attention.num_heads != 0)
      config.fail(
          fmt::format("without \"head_dim\", \"hidden_size\" {} must be a multiple of \"num_attention_heads\" "
                      "{}",
                      arch.hidden_size, attention.num_heads));
    attention.head_dim = arch.hidden_size / attention.num_heads;
  }
  layer.mlp.ffn_hidden_size = arch.dense_ffn_hidden_size;
  const char* activation = config.has("hidden_activation") ? "hidden_activation" : "hidden_act";
  layer.mlp.activation = activation_named(config, config.text_or(activation, defaults.activation));

  const int64_t count = config.integer("num_hidden_layers");
  if (count < 1 || count > 100000) config.fail(fmt::format("\"num_hidden_layers\" is {}", count));
  arch.layers.assign(static_cast<size_t>(count), layer);
  return arch;
}

namespace {

Json rope_json(const RopeSpec& rope) {
  static constexpr std::string_view kTypes[] = {"default", "linear", "llama3", "yarn"};
  Json json = Json::object();
  json.set("rope_theta", rope.theta);
  json.set("rope_type", kTypes[static_cast<int>(rope.scaling)]);
  if (rope.rotary_percent != 1.0) json.set("partial_rotary_factor", rope.rotary_percent);
  if (!rope.mrope_section.empty()) {
    Json section = Json::array();
    for (const int64_t size : rope.mrope_section) section.items().push_back(Json(size));
    json.set("mrope_section", std::move(section));
    if (rope.mrope_interleaved) json.set("mrope_interleaved", true);
  }
  if (rope.scaling == RopeScaling::kNone) return json;
  json.set("factor", rope.factor);
  if (rope.scaling == RopeScaling::kLlama3) {
    json.set("low_freq_factor", rope.low_freq_factor);
    json.set("high_freq_factor", rope.high_freq_factor);
    json.set("original_max_position_embeddings", rope.original_max_positions);
  } else if (rope.scaling == RopeScaling::kYarn) {
    json.set("original_max_position_embeddings", rope.original_max_positions);
    json.set("beta_fast", rope.beta_fast);
    json.set("beta_slow", rope.beta_slow);
    if (rope.mscale) json.set("mscale", *rope.mscale);
    if (rope.mscale_all_dim) json.set("mscale_all_dim", *rope.mscale_all_dim);
    if (rope.attention_factor) json.set("attention_factor", *rope.attention_factor);
    if (rope.truncate) json.set("truncate", *rope.truncate);
  }
  return json;
}

}  // namespace

Json write_decoder_config(const ArchSpec& arch) {
  const LayerSpec& layer = arch.attention_layer();
  const Json rope = rope_json(arch.rope);
  Json config = Json::object();
  config.set("architectures", Json());
  config.set("attention_dropout", arch.attention_dropout);
  config.set("dtype", torch_name(arch.dtype));
  config.set("head_dim", layer.attention.head_dim);
  config.set("hidden_act", activation_name(layer.mlp.activation));
  config.set("hidden_size", arch.hidden_size);
  config.set("initializer_range", arch.init_std);
  config.set("intermediate_size", arch.dense_ffn_hidden_size);
  config.set("max_position_embeddings", arch.max_positions);
  config.set("model_type", Json());
  config.set("num_attention_heads", layer.attention.num_heads);
  config.set("num_hidden_layers", arch.num_layers());
  config.set("num_key_value_heads", layer.attention.num_query_groups);
  config.set("rms_norm_eps", arch.norm.eps);
  config.set("rope_parameters", rope);
  // transformers 4, vLLM and others read these.
  config.set("rope_theta", arch.rope.theta);
  if (arch.rope.scaling != RopeScaling::kNone || !arch.rope.mrope_section.empty()) {
    Json scaling = rope;
    scaling.erase("rope_theta");
    config.set("rope_scaling", std::move(scaling));
  }
  config.set("tie_word_embeddings", arch.embedding.tied);
  config.set("torch_dtype", torch_name(arch.dtype));
  config.set("use_cache", true);
  config.set("vocab_size", arch.embedding.vocab_size);
  return config;
}

}  // namespace viaduct::models
