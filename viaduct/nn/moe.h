// MoeLayer: a mixture of experts in the place of a layer's MLP.
#pragma once

#include <torch/nn/module.h>

#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// router, experts, and shared_experts where there are some.
class MoeLayer : public torch::nn::Module {
 public:
  /// `layer` counts over the whole model.
  MoeLayer(const models::LayerSpec& spec, int layer, ContextPtr context);
  /// x [s, b, h], normalised -> [s, b, h]; under sequence parallelism this rank's positions.
  at::Tensor forward(const at::Tensor& x, ForwardPass& pass) const;
};

}  // namespace viaduct::nn
