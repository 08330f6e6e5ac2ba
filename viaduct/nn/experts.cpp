#include "viaduct/nn/experts.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"
#include "viaduct/nn/linear.h"
#include "viaduct/nn/recompute.h"
#include "viaduct/torchx/recompute.h"

namespace viaduct::nn {

GroupedLinear::GroupedLinear(int64_t num_experts, int64_t in, int64_t out, bool bias, ContextPtr context)
    : context_(std::move(context)) {
  for (int64_t i = 0; i < num_experts; ++i) {
    weights_.push_back(register_parameter(fmt::format("weight{}", i), at::empty({out, in}, context_->options())));
    if (bias)
      biases_.push_back(register_parameter(fmt::format("bias{}", i), at::empty({out}, context_->options())));
  }
}

at::Tensor GroupedLinear::forward(const at::Tensor& rows, const std::vector<int64_t>& rows_per_expert,
                                  bool with_bias) const {
  if (with_bias || biases_.empty())
    return adapted(context_->kernels->grouped_linear(rows, rows_per_expert, weights_, biases_), rows,
                   rows_per_expert);
  std::vector<at::Tensor> zeros;
  for (const at::Tensor& bias : biases_) zeros.push_back(bias - bias.detach());
  return adapted(context_->kernels->grouped_linear(rows, rows_per_expert, weights_, zeros), rows, rows_per_expert);
}

Experts::Experts(const models::MlpSpec& mlp, const models::MoeSpec& moe, ContextPtr context)
    : context_(std::move(context)),
      mlp_(mlp),
      num_local_(divided(moe.num_experts, context_->mesh->ep.size(), "experts")),
      recomputes_activation_(recomputes(*context_, "moe_act")) {
  const int64_t width = moe.latent_size.value_or(context_->arch.hidden_size);
  const int64_t ffn = divided(mlp.ffn_hidden_size, context_->mesh->etp.size(), "rows of an expert");
  linear_fc1_ = register_module(
      "linear_fc1",
      std::make_shared<GroupedLinear>(num_local_, width, ffn * (mlp.gated ? 2 : 1), mlp.bias, context_));
  linear_fc2_ =
      register_module("linear_fc2", std::make_shared<GroupedLinear>(num_local_, ffn, width, mlp.bias, context_));
}

at::Tensor Experts::forward(const at::Tensor& rows, const std::vector<int64_t>& rows_per_expert) const {
  const auto activation = [this](const at::Tensor& x) { return context_->kernels->activation(x, mlp_); };
  const at::Tensor outer = linear_fc1_->forward(rows, rows_per_expert, /*with_bias=*/true);
  // The parts are summed, so one of them has the bias. All of them see all rows, and with them its whole gradient.
  const auto down = [&](const at::Tensor& inner) {
    return linear_fc2_->forward(inner, rows_per_expert, /*with_bias=*/context_->mesh->etp.rank() == 0);
  };
  return recomputes_activation_ ? torchx::recomputed_for(outer, activation, down) : down(activation(outer));
}

}  // namespace viaduct::nn
