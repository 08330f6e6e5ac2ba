// What a rank holds of a whole tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include "viaduct/layout/plan.h"

namespace viaduct::nn {

/// A view of a box of a tensor.
at::Tensor box_of(at::Tensor tensor, const layout::Box& box);

/// A new tensor of the shard's local shape with its part of `whole`, of that type and device; padding is zero.
at::Tensor shard_of(const at::Tensor& whole, const layout::ShardedTensor& sharded);

}  // namespace viaduct::nn
