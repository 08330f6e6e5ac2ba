// The published sizes of the families, as configurations of their models.
#pragma once

#include <string_view>

#include "viaduct/core/json.h"
#include "viaduct/models/family.h"

namespace viaduct::models {

/// Writes a published size's members over `config`, which has the family's toy configuration. UserError with the
/// nearest name, or with the family that has the size.
void apply_size(Json& config, const Family& family, std::string_view size);
/// The config.json of a published model, as far as its architecture depends on it. `size`: "llama-3.2-1b".
/// UserError with the nearest name.
Json published_config(std::string_view size);

}  // namespace viaduct::models
