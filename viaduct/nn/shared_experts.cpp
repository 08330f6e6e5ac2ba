#include "viaduct/nn/shared_experts.h"

#include <ATen/ATen.h>

namespace viaduct::nn {

namespace {

models::MlpSpec shared_mlp(models::MlpSpec mlp, const models::MoeSpec& moe) {
  mlp.ffn_hidden_size = moe.shared_ffn_size.value();
  mlp.bias = false;
  return mlp;
}

}  // namespace

SharedExperts::SharedExperts(const models::MlpSpec& mlp, const models::MoeSpec& moe, ContextPtr context)
    : Mlp(shared_mlp(mlp, moe), Mlp::Options{}, context), context_(context) {
  if (moe.shared_gate)
    gate_weight_ =
        register_parameter("gate_weight", at::empty({1, context_->arch.hidden_size}, context_->options()));
}

at::Tensor SharedExperts::forward(const at::Tensor& input) const {
  // The gradients of its uses here are summed before those of others, whether it is recomputed or not.
  const at::Tensor x = at::alias(input);
  const at::Tensor result = Mlp::forward(x);
  if (!gate_weight_.defined()) return result;
  return at::sigmoid(context_->kernels->linear(x, gate_weight_, {})) * result;
}

}  // namespace viaduct::nn
