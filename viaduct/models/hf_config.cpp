#include "viaduct/models/hf_config.h"

#include <utility>

#include "viaduct/core/file.h"

namespace viaduct::models {

const Json& language_part(const Json& config) {
  for (const char* key : {"text_config", "llm_config"})
    if (const Json* part = config.find(key); part && part->is_object()) return *part;
  return config;
}

Json& language_part(Json& config) { return const_cast<Json&>(language_part(std::as_const(config))); }

HfConfig HfConfig::read(const std::string& path) {
  Json document = Json::parse(read_text_file(path, 64u << 20), path);
  VIADUCT_USER_CHECK(document.is_object(), "{}: a model configuration is a JSON object", path);
  return {std::move(document), path};
}

void HfConfig::fail(const std::string& message) const { throw UserError(fmt::format("{}: {}", origin_, message)); }

bool HfConfig::has(std::string_view key) const {
  const Json* value = document_.find(key);
  return value && !value->is_null();
}

template <class Get>
auto HfConfig::get(std::string_view key, Get get) const {
  if (!has(key)) fail(fmt::format("the key \"{}\" is missing; this model cannot be converted without it", key));
  try {
    return get(*document_.find(key));
  } catch (const UserError& error) {
    fail(fmt::format("\"{}\": {}", key, error.what()));
  }
}

int64_t HfConfig::integer(std::string_view key) const {
  return get(key, [](const Json& value) { return value.as_int(); });
}

double HfConfig::number(std::string_view key) const {
  return get(key, [](const Json& value) { return value.as_double(); });
}

int64_t HfConfig::integer_or(std::string_view key, int64_t fallback) const {
  return has(key) ? integer(key) : fallback;
}

double HfConfig::number_or(std::string_view key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool HfConfig::boolean_or(std::string_view key, bool fallback) const {
  if (!has(key)) return fallback;
  return get(key, [](const Json& value) { return value.as_bool(); });
}

std::string HfConfig::text_or(std::string_view key, std::string fallback) const {
  if (!has(key)) return fallback;
  return get(key, [](const Json& value) { return value.as_string(); });
}

std::optional<int64_t> HfConfig::optional_integer(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  return integer(key);
}

std::optional<double> HfConfig::optional_number(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  return number(key);
}

HfConfig HfConfig::child(std::string_view key) const {
  if (!has(key) || !document_.at(key).is_object())
    fail(fmt::format("\"{}\" is missing or no object; this model cannot be converted without it", key));
  return {document_.at(key), fmt::format("{}: \"{}\"", origin_, key)};
}

std::vector<int64_t> HfConfig::integers(std::string_view key) const {
  if (!has(key)) return {};
  return get(key, [](const Json& value) {
    std::vector<int64_t> result;
    if (value.is_array()) {
      for (const Json& each : value.items()) result.push_back(each.as_int());
    } else {
      result.push_back(value.as_int());
    }
    return result;
  });
}

std::string HfConfig::architecture() const {
  if (has("auto_map")) {
    const Json& map = document_.at("auto_map");
    if (const Json* name = map.is_object() ? map.find("AutoModelForCausalLM") : nullptr; name && name->is_string())
      return name->as_string().substr(name->as_string().rfind('.') + 1);
  }
  if (!has("architectures")) return "";
  const Json& names = document_.at("architectures");
  if (!names.is_array() || names.items().empty() || !names.items()[0].is_string())
    fail("\"architectures\" is not a list of class names");
  return names.items()[0].as_string();
}

std::optional<DType> HfConfig::dtype() const {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!has(key)) continue;
    const std::string name = text_or(key, "");
    const auto dtype = dtype_from_torch_name(name);
    if (!dtype || !is_floating(*dtype)) fail(fmt::format("\"{}\": \"{}\" is no floating type of torch", key, name));
    return dtype;
  }
  return has("text_config") ? child("text_config").dtype() : std::nullopt;
}

RopeSpec HfConfig::rope(double default_theta) const {
  RopeSpec rope;
  const bool v5 = has("rope_parameters");
  const char* key = v5 ? "rope_parameters" : "rope_scaling";
  rope.theta = number_or("rope_theta", default_theta);
  rope.rotary_percent = number_or("partial_rotary_factor", 1.0);
  if (!has(key)) return rope;
  const Json& scaling = document_.at(key);
  if (!scaling.is_object()) fail(fmt::format("\"{}\" is not an object", key));
  const HfConfig fields(scaling, fmt::format("{}: \"{}\"", origin_, key));
  if (v5) {
    rope.theta = fields.number_or("rope_theta", rope.theta);
    rope.rotary_percent = fields.number_or("partial_rotary_factor", rope.rotary_percent);
  }
  const std::string type = fields.text_or("rope_type", fields.text_or("type", "default"));
  rope.mrope_section = fields.integers("mrope_section");
  rope.mrope_interleaved = fields.boolean_or("mrope_interleaved", false);
  if (type == "default" || type == "mrope") return rope;
  // null means: from the original length to the model's.
  const bool factor_follows = type == "yarn" && fields.document().contains("factor") && !fields.has("factor");
  if (!factor_follows) rope.factor = fields.number("factor");
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    rope.low_freq_factor = fields.number("low_freq_factor");
    rope.high_freq_factor = fields.number("high_freq_factor");
    rope.original_max_positions = fields.integer("original_max_position_embeddings");
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    rope.original_max_positions =
        fields.integer_or("original_max_position_embeddings", integer_or("max_position_embeddings", 0));
    if (factor_follows)
      rope.factor = static_cast<double>(integer("max_position_embeddings")) /
                    static_cast<double>(rope.original_max_positions);
    // 0 stands for the usual value, as in transformers.
    rope.beta_fast = fields.number_or("beta_fast", 0.0) == 0.0 ? 32.0 : fields.number("beta_fast");
    rope.beta_slow = fields.number_or("beta_slow", 0.0) == 0.0 ? 1.0 : fields.number("beta_slow");
    rope.mscale = fields.optional_number("mscale");
    rope.mscale_all_dim = fields.optional_number("mscale_all_dim");
    rope.attention_factor = fields.optional_number("attention_factor");
    if (fields.has("truncate")) rope.truncate = fields.boolean_or("truncate", true);
  } else {
    fields.fail(
        fmt::format("rope type \"{}\" has no Megatron form; known are default, linear, llama3 and yarn", type));
  }
  return rope;
}

}  // namespace viaduct::models
