// Mlp: the dense MLP of a layer, or all shared experts of an MoE layer together.
#pragma once

#include <torch/nn/module.h>

#include "viaduct/nn/linear.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// linear_fc1 (gate and up together when gated), the activation, linear_fc2.
class Mlp : public torch::nn::Module {
 public:
  /// Norms that are part of its linears.
  struct Options {
    bool input_norm = false;  // fused into linear_fc1
    bool post_norm = false;   // in linear_fc2
  };
  /// `mlp`: sizes of the whole model.
  Mlp(const models::MlpSpec& mlp, const Options& options, ContextPtr context);
  /// x [s, b, h] -> [s, b, h]; see linear.h for what sequence parallelism makes of s.
  at::Tensor forward(const at::Tensor& x) const;

 private:
  ContextPtr context_;
  models::MlpSpec mlp_;
  std::shared_ptr<ColumnParallelLinear> linear_fc1_;
  std::shared_ptr<RowParallelLinear> linear_fc2_;
};

}  // namespace viaduct::nn
