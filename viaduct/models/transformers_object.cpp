#include "viaduct/models/transformers_object.h"

#include <algorithm>
#include <array>

#include "viaduct/config/python_values.h"
#include "viaduct/core/error.h"

namespace viaduct::models {

using config::Yaml;

namespace {

// The fields of transformers' PreTrainedConfig.
constexpr std::string_view kBaseFields = R"({"architectures": null, "chunk_size_feed_forward": 0, "dtype": null,
  "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_encoder_decoder": false,
  "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "output_hidden_states": false, "problem_type": null,
  "return_dict": true, "transformers_version": null})";

// Keys of older files that transformers 5 takes out of a configuration: parameters of generation, and names that it
// keeps elsewhere.
constexpr auto kDropped = std::to_array<std::string_view>({"max_length",
                                                           "min_length",
                                                           "do_sample",
                                                           "early_stopping",
                                                           "num_beams",
                                                           "temperature",
                                                           "top_k",
                                                           "top_p",
                                                           "typical_p",
                                                           "repetition_penalty",
                                                           "length_penalty",
                                                           "no_repeat_ngram_size",
                                                           "encoder_no_repeat_ngram_size",
                                                           "bad_words_ids",
                                                           "num_return_sequences",
                                                           "output_scores",
                                                           "return_dict_in_generate",
                                                           "forced_bos_token_id",
                                                           "forced_eos_token_id",
                                                           "remove_invalid_values",
                                                           "exponential_decay_length_penalty",
                                                           "suppress_tokens",
                                                           "begin_suppress_tokens",
                                                           "epsilon_cutoff",
                                                           "eta_cutoff",
                                                           "encoder_repetition_penalty",
                                                           "num_assistant_tokens",
                                                           "num_assistant_tokens_schedule",
                                                           "assistant_confidence_threshold",
                                                           "assistant_lookbehind",
                                                           "target_lookbehind",
                                                           "num_beam_groups",
                                                           "diversity_penalty",
                                                           "name_or_path",
                                                           "output_attentions",
                                                           "attn_implementation",
                                                           "experts_implementation",
                                                           "torch_dtype"});

bool dropped(std::string_view key) {
  return key.starts_with('_') || std::find(kDropped.begin(), kDropped.end(), key) != kDropped.end();
}

// rope_theta and rope_scaling become rope_parameters, as in transformers 5.
void gather_rope(Json& values, const Json& defaults) {
  Json rope = defaults.at("rope_parameters");
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* found = values.find(key);
    if (!found || !found->is_object()) continue;
    for (const auto& [name, value] : found->members()) rope.set(name, value);
    // The type by its older name counts where the newer one is not there.
    if (const Json* type = found->find("type"); type && !found->contains("rope_type")) rope.set("rope_type", *type);
    if (const Json* theta = values.find("rope_theta"); theta && !found->contains("rope_theta"))
      rope.set("rope_theta", *theta);
  }
  const bool none = !values.contains("rope_parameters") && !values.contains("rope_scaling");
  if (const Json* theta = values.find("rope_theta"); theta && none) rope.set("rope_theta", *theta);
  values.erase("rope_scaling");
  values.erase("rope_theta");
  values.set("rope_parameters", std::move(rope));
}

bool is_label_key(const std::string& key) {
  return !key.empty() && key.size() < 10 &&
         std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

Yaml to_yaml(const Json& json) {
  switch (json.kind()) {
    case Json::Kind::kNull: return {};
    case Json::Kind::kBool: return json.as_bool();
    case Json::Kind::kNumber: return json.is_integer() ? Yaml(json.as_int()) : Yaml(json.as_double());
    case Json::Kind::kString: return json.as_string();
    case Json::Kind::kArray: {
      Yaml list = Yaml::sequence();
      for (const Json& item : json.items()) list.items().push_back(to_yaml(item));
      return list;
    }
    case Json::Kind::kObject: {
      Yaml mapping = Yaml::mapping();
      for (const auto& [key, value] : json.members()) mapping.set(key, to_yaml(value));
      return mapping;
    }
  }
  throw InternalError("a JSON value of no kind");
}

Json to_json(const Yaml& yaml) {
  switch (yaml.kind()) {
    case Yaml::Kind::kNull: return {};
    case Yaml::Kind::kBool: return yaml.as_bool();
    case Yaml::Kind::kInt: return yaml.as_int();
    case Yaml::Kind::kFloat: return yaml.as_double();
    case Yaml::Kind::kString: return yaml.as_string();
    case Yaml::Kind::kSequence: {
      Json list = Json::array();
      for (const Yaml& item : yaml.items()) list.items().push_back(to_json(item));
      return list;
    }
    case Yaml::Kind::kMapping: {
      Json object = Json::object();
      for (const auto& [key, value] : yaml.members())
        object.set(key.is_int() ? std::to_string(key.as_int()) : key.as_string(), to_json(value));
      return object;
    }
    case Yaml::Kind::kSet: break;
  }
  throw UserError("run_config.yaml: a set stands where a configuration of transformers has none");
}

Yaml transformers_object(const TransformersClass& type, const Json& values) {
  const Json defaults = Json::parse(type.defaults, type.target);
  Json fields = Json::parse(kBaseFields, "transformers");
  for (const auto& [key, value] : defaults.members()) fields.set(key, value);
  Json own = values;
  if (defaults.contains("rope_parameters")) gather_rope(own, defaults);
  if (const Json* dtype = own.find("torch_dtype"); dtype && !own.contains("dtype")) own.set("dtype", *dtype);
  for (const auto& [key, value] : own.members())
    if (!dropped(key)) fields.set(key, value);

  Yaml object = Yaml::mapping({{"_target_", type.target}});
  for (const auto& [key, value] : fields.members()) object.set(key, to_yaml(value));
  if (const Json& dtype = fields.at("dtype"); dtype.is_string())
    if (const auto known = dtype_from_torch_name(dtype.as_string()))
      object.set("dtype", config::Codec<config::TorchDtype>::encode(*known));
  if (const Json& labels = fields.at("id2label"); labels.is_object()) {
    Yaml by_number = Yaml::mapping();
    for (const auto& [key, value] : labels.members())
      by_number.members().emplace_back(is_label_key(key) ? Yaml(std::stoll(key)) : Yaml(key), to_yaml(value));
    object.set("id2label", std::move(by_number));
  }
  return object;
}

Json transformers_values(const Yaml& object) {
  const Json base = Json::parse(kBaseFields, "transformers");
  Json values = Json::object();
  if (!object.is_mapping()) return values;
  for (const auto& [key, value] : object.members()) {
    if (!key.is_string() || key.as_string() == "_target_") continue;
    if (key.as_string() == "dtype" && config::Codec<config::TorchDtype>::accepts(value)) {
      values.set("dtype", torch_name(config::Codec<config::TorchDtype>::decode(value)));
      continue;
    }
    Json json = to_json(value);
    if (const Json* usual = base.find(key.as_string()); usual && *usual == json) continue;
    values.set(key.as_string(), std::move(json));
  }
  return values;
}

}  // namespace viaduct::models
