// Values of overrides on a command line, in Hydra's grammar: null, true, 12, 1e-4, a string, 'a, quoted one',
// [1,2], {a: 1, b: [x]}.
#pragma once

#include <string_view>

#include "viaduct/config/yaml.h"

namespace viaduct::config {

/// The value as Hydra 1.3's override parser reads it. An empty text is an empty string. UserError that says where
/// the text cannot be read, for alternatives ("a,b", choice(...)) of a sweep, for ${...}, which nothing stands for
/// here, and for what YAML could not hold: text that is not UTF-8, integers of more than 4300 digits.
Yaml parse_override_value(std::string_view text);

}  // namespace viaduct::config
