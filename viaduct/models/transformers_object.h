// Configuration objects of transformers as Megatron Bridge keeps them in a provider: every field of the class,
// those that config.json leaves out with the class's own values.
#pragma once

#include <string_view>

#include "viaduct/config/yaml.h"
#include "viaduct/core/json.h"

namespace viaduct::models {

/// A configuration class of transformers.
struct TransformersClass {
  std::string_view target;    // "transformers.models.qwen3_vl.configuration_qwen3_vl.Qwen3VLVisionConfig"
  std::string_view defaults;  // a JSON object: what the class assumes for keys that the file leaves out
};

/// The object that transformers 5 makes of `values`, a part of config.json in either release's form: keys without a
/// field stay, torch_dtype is dtype, rope_theta and rope_scaling are rope_parameters where the defaults have that,
/// and parameters of generation are dropped.
config::Yaml transformers_object(const TransformersClass& type, const Json& values);

/// The other way: what of `object` differs from the fields that every configuration class has.
Json transformers_values(const config::Yaml& object);

/// The same value; numbers keep their kind, objects become mappings.
config::Yaml to_yaml(const Json& json);
/// The same value, the other way. UserError for a set, which JSON does not have.
Json to_json(const config::Yaml& yaml);

}  // namespace viaduct::models
