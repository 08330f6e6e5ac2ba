// First values of adapters.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "viaduct/layout/plan.h"
#include "viaduct/peft/options.h"

namespace viaduct::peft {

/// Fills this rank's part of a matrix [outputs, inputs]. The whole is drawn from `seed` and its name, so that ranks
/// of any layout begin alike.
void fill_first_values(at::Tensor tensor, const layout::ShardedTensor& sharded, InitMethod method, uint64_t seed);

}  // namespace viaduct::peft
