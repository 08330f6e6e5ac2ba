// The configuration object of Gemma 3's projector, as Megatron Bridge's provider holds it.
#pragma once

#include <cstdint>

#include "viaduct/config/yaml.h"
#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// A transformer configuration, of which the projector uses few sizes; the rest stays as upstream's class has it.
config::Yaml gemma3_projector_config(const ArchSpec& arch, int64_t tokens_per_image);

}  // namespace viaduct::models
