// Random adapters of toy models.
#pragma once

#include <cstdint>

#include "viaduct/core/file.h"
#include "viaduct/core/json.h"

namespace viaduct::cli {

/// Writes a PEFT folder: LoRA of `rank`, alpha twice that, for every linear layer outside of experts of the model
/// that `config` describes. The same bytes for the same configuration and seed. UserError when the folder holds
/// something and `overwrite` is not set. Returns the number of adapted layers.
int64_t write_toy_adapter(const Json& config, const Path& folder, int64_t rank, uint64_t seed, bool overwrite);

}  // namespace viaduct::cli
