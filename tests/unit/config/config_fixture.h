// The fixtures that make_config_fixtures.py and make_override_fixtures.py write, and their values as YAML nodes.
#pragma once

#include <map>
#include <string>

#include "viaduct/config/yaml.h"
#include "viaduct/core/file.h"
#include "viaduct/core/json.h"

namespace viaduct::config::testing {

inline Json fixture(const std::string& name) {
  const Path path = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/config" / name;
  return Json::parse(read_text_file(path), path.string());
}

inline Yaml yaml_of(const Json& json) {
  switch (json.kind()) {
    case Json::Kind::kNull: return Yaml();
    case Json::Kind::kBool: return Yaml(json.as_bool());
    case Json::Kind::kNumber: return json.is_integer() ? Yaml(json.as_int()) : Yaml(json.as_double());
    case Json::Kind::kString: return Yaml(json.as_string());
    case Json::Kind::kArray: {
      Yaml out = Yaml::sequence();
      for (const Json& item : json.items()) out.items().push_back(yaml_of(item));
      return out;
    }
    case Json::Kind::kObject: break;
  }
  Yaml out = Yaml::mapping();
  for (const auto& [key, value] : json.members()) out.set(key, yaml_of(value));
  return out;
}

/// Every value below a document by its dotted path; enums, functions and partials are values.
inline void leaves(const Yaml& node, const std::string& path, std::map<std::string, Yaml>& out) {
  if (!node.is_mapping() || node.contains("_args_") || node.contains("_call_") || node.contains("_partial_")) {
    out.emplace(path, node);
    return;
  }
  for (const auto& [key, value] : node.members())
    if (key.as_string() != "_target_")
      leaves(value, path.empty() ? key.as_string() : path + "." + key.as_string(), out);
}

}  // namespace viaduct::config::testing
