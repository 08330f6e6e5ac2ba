// SharedExperts: the experts of an MoE layer that every token visits, as one MLP.
#pragma once

#include "viaduct/nn/mlp.h"

namespace viaduct::nn {

/// "shared_experts": linear_fc1 and linear_fc2 of all of them together, cut among the tensor-parallel ranks; and
/// gate_weight [1, hidden], whose sigmoid scales the output, where the model has one.
class SharedExperts : public Mlp {
 public:
  /// `mlp`: of one routed expert; the size comes from `moe`.
  SharedExperts(const models::MlpSpec& mlp, const models::MoeSpec& moe, ContextPtr context);
  /// x [s, b, h] -> [s, b, h]; see linear.h for what sequence parallelism makes of s.
  at::Tensor forward(const at::Tensor& x) const;

 private:
  ContextPtr context_;
  at::Tensor gate_weight_;
};

}  // namespace viaduct::nn
