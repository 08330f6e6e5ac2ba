// Configurations that leave out what transformers assumes.
#pragma once

#include <string_view>

#include "viaduct/models/hf_config.h"

namespace viaduct::models {

/// The same configuration with the members of the JSON object `defaults` for keys that it does not have; null
/// counts as a value.
HfConfig with_defaults(const HfConfig& config, std::string_view defaults);

/// The same configuration with this key set.
HfConfig with(const HfConfig& config, std::string_view key, Json value);

}  // namespace viaduct::models
