// First values of a model that is trained from nothing.
#pragma once

#include <cstdint>

#include "viaduct/nn/live_model.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// Fills all parameters: weights from a normal distribution with the deviation init_method_std, the embedding with
/// embedding_init_method_std, what adds to the residual (linear_proj, linear_fc2) with init_method_std / sqrt(2 *
/// layers) as GPT-2 does; norms become one (where they are stored as gamma - 1, zero), biases, sinks and expert
/// biases zero. Every parameter's values are drawn whole, from `seed` and its name, on its device: ranks of any
/// layout start from the same model. UserError for init methods other than normal_.
void initialize_weights(const ModelChunks& chunks, const ModelContext& context, uint64_t seed);

}  // namespace viaduct::nn
