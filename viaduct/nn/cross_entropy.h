// The loss of language models over a vocabulary that is cut among the tensor-parallel ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// -log softmax(logits)[label] of each position, without gathering the logits. `logits` [s, b, rows]: this rank's
/// part (OutputLayer); `labels` [s, b] int64, below the vocabulary's size. Rows of padding count for nothing.
/// Result [s, b] float32 (float64 for such logits), the same on all tensor-parallel ranks.
at::Tensor vocab_parallel_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                                        const ModelContext& context);

}  // namespace viaduct::nn
