// Attention made of libtorch's operations.
#pragma once

#include "viaduct/nn/kernels.h"

namespace viaduct::nn {

/// [s, b, n * v]. UserError when the backend cannot compute what is asked: flash and fused know neither soft-capped
/// scores nor sinks.
at::Tensor torch_attention(const AttentionCall& call, AttentionBackend backend);

}  // namespace viaduct::nn
