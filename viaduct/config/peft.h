// What the section peft implies.
#pragma once

#include "viaduct/config/sections.h"

namespace viaduct::config {

/// CanonicalLoRA's canonical_mapping: Megatron's module of each target, with the parts of it that are adapted:
/// {"linear_qkv": {"linear_q", "linear_k"}, "linear_proj": {"linear_proj"}}.
Yaml canonical_lora_mapping(const Strings& target_modules);

}  // namespace viaduct::config
