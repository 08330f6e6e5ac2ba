// Attention over packed rows: each sequence by itself, so that the work is that of the sequences and not of the
// row.
#pragma once

#include <functional>

#include "viaduct/nn/kernels.h"

namespace viaduct::nn {

/// What `attention` makes of each sequence of call.mask.packed, put together: [s, b, n * v]. InternalError when the
/// offsets are not those of rows of s positions.
at::Tensor packed_attention(const AttentionCall& call,
                            const std::function<at::Tensor(const AttentionCall& sequence)>& attention);

}  // namespace viaduct::nn
