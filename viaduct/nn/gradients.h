// What is left to do for gradients after the backward pass, when several ranks hold the same parameter.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <span>
#include <vector>

#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// A module with parameters that every tensor-parallel rank holds whole, though each has only a part of their
/// gradient: norms over a rank's own heads, a router that saw a rank's own tokens. (Under sequence parallelism that
/// holds of all whole parameters, and need not be said.)
class HasPartialGradients {
 public:
  virtual ~HasPartialGradients() = default;
  /// Those parameters.
  virtual std::vector<at::Tensor> partial_gradients() const = 0;
};

/// Sums the gradients of a rank's model chunks over the ranks of one copy of the model that hold the same
/// parameter: those of tensor parallelism as above, those of an adapter that all experts share, and first and last
/// stage for a tied embedding.
void sum_shared_gradients(std::span<const std::shared_ptr<torch::nn::Module>> chunks, const ModelContext& context);

/// The same, and averages them over data parallelism: dense parameters over dp x cp, experts over their own
/// data-parallel group, scaled as if all ranks had contributed to them.
void finalize_gradients(std::span<const std::shared_ptr<torch::nn::Module>> chunks, const ModelContext& context);

/// After an iteration: every router with an expert bias moves it by `rate` towards experts that got fewer tokens
/// than the average, over all ranks and micro-batches, and counts anew (megatron-core's get_updated_expert_bias;
/// auxiliary-loss-free balancing, Wang et al. 2024).
void update_expert_biases(std::span<const std::shared_ptr<torch::nn::Module>> chunks, const ModelContext& context,
                          double rate);

/// After an iteration: routers forget the micro-batches that their global balancing loss has counted
/// (megatron-core's reset_model_temporary_tensors).
void reset_global_losses(std::span<const std::shared_ptr<torch::nn::Module>> chunks);

}  // namespace viaduct::nn
