// Experts: the MLPs of an MoE layer that this rank has.
#pragma once

#include <torch/nn/module.h>

#include <vector>

#include "viaduct/nn/linear_adapter.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// The same linear of several experts: weight0, weight1 ... [out, in], and bias0 ... [out].
class GroupedLinear : public AdaptableLinear {
 public:
  /// Of this rank's experts; in and out are its own too.
  GroupedLinear(int64_t num_experts, int64_t in, int64_t out, bool bias, ContextPtr context);
  /// rows [n, in], rows_per_expert[i] of them of expert i -> [n, out]. Without its bias where `with_bias` is false
  /// (which has its gradient nevertheless).
  at::Tensor forward(const at::Tensor& rows, const std::vector<int64_t>& rows_per_expert, bool with_bias) const;

 private:
  ContextPtr context_;
  std::vector<at::Tensor> weights_;
  std::vector<at::Tensor> biases_;
};

/// "experts": this rank's run of experts, counted from 0, each cut among the expert-tensor-parallel ranks like a
/// dense MLP.
class Experts : public torch::nn::Module {
 public:
  /// `mlp`: of one expert, whole. UserError when experts or their sizes cannot be divided among the ranks.
  Experts(const models::MlpSpec& mlp, const models::MoeSpec& moe, ContextPtr context);

  /// rows [n, width], rows_per_expert[i] of them of this rank's expert i -> [n, width]: this rank's part, to be
  /// summed over the expert-tensor-parallel ranks, all of which call it with the same rows.
  at::Tensor forward(const at::Tensor& rows, const std::vector<int64_t>& rows_per_expert) const;

  /// How many experts this rank has.
  int64_t num_local_experts() const { return num_local_; }

 private:
  ContextPtr context_;
  models::MlpSpec mlp_;
  int64_t num_local_;
  bool recomputes_activation_;
  std::shared_ptr<GroupedLinear> linear_fc1_;
  std::shared_ptr<GroupedLinear> linear_fc2_;
};

}  // namespace viaduct::nn
