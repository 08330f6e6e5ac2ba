#include "viaduct/models/known_size.h"

#include <fmt/ranges.h>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/models/registry.h"

namespace viaduct::models {

namespace {

const KnownSize* find_size(const Family& family, std::string_view name) {
  for (const KnownSize& size : family.sizes)
    if (size.name == name) return &size;
  return nullptr;
}

std::string suggestion(std::string_view name, const std::vector<std::string>& names) {
  const auto near = nearest(name, names);
  return near ? fmt::format(" (did you mean \"{}\"?)", *near) : "";
}

}  // namespace

void apply_size(Json& config, const Family& family, std::string_view size) {
  if (const KnownSize* known = find_size(family, size)) {
    const Json changes = Json::parse(known->config, std::string(size));
    for (const auto& [key, value] : changes.members()) config.set(key, value);
    return;
  }
  for (const Family& other : families())
    VIADUCT_USER_CHECK(!find_size(other, size), "\"{}\" is a size of the family {}, not of {}", size, other.name,
                       family.name);
  std::vector<std::string> names;
  for (const KnownSize& known : family.sizes) names.emplace_back(known.name);
  throw UserError(fmt::format("{} has no size \"{}\"{}; there are {}, and key=value settings", family.name, size,
                              suggestion(size, names), fmt::join(names, ", ")));
}

Json published_config(std::string_view size) {
  std::vector<std::string> names;
  for (const Family& family : families()) {
    if (find_size(family, size)) {
      Json config = Json::parse(family.toy_config, fmt::format("the configuration of {}", size));
      apply_size(config, family, size);
      config.set("architectures", Json::array({Json(family.architecture)}));
      config.set("model_type", Json(family.model_type));
      return config;
    }
    for (const KnownSize& known : family.sizes) names.emplace_back(known.name);
  }
  throw UserError(fmt::format("no published model is known as \"{}\"{}", size, suggestion(size, names)));
}

}  // namespace viaduct::models
