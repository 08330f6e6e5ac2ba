#include "viaduct/models/hf_defaults.h"

namespace viaduct::models {

HfConfig with_defaults(const HfConfig& config, std::string_view defaults) {
  Json document = config.document();
  const Json assumed = Json::parse(defaults, "defaults");
  for (const auto& [key, value] : assumed.members())
    if (!document.contains(key)) document.set(key, value);
  return {std::move(document), config.origin()};
}

HfConfig with(const HfConfig& config, std::string_view key, Json value) {
  Json document = config.document();
  document.set(key, std::move(value));
  return {std::move(document), config.origin()};
}

}  // namespace viaduct::models
