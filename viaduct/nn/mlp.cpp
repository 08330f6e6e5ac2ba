#include "viaduct/nn/mlp.h"

namespace viaduct::nn {

namespace {

std::optional<double> norm_eps(bool wanted, const ModelContext& context) {
  return wanted ? std::optional<double>(context.arch.norm.eps) : std::nullopt;
}

}  // namespace

Mlp::Mlp(const models::MlpSpec& mlp, const Options& options, ContextPtr context)
    : context_(std::move(context)), mlp_(mlp) {
  const int64_t hidden = context_->arch.hidden_size, ffn = mlp.ffn_hidden_size;
  linear_fc1_ = register_module(
      "linear_fc1",
      std::make_shared<ColumnParallelLinear>(
          hidden, ffn * (mlp.gated ? 2 : 1),
          ColumnParallelLinear::Options{mlp.bias, norm_eps(options.input_norm, *context_)}, context_));
  linear_fc2_ = register_module(
      "linear_fc2", std::make_shared<RowParallelLinear>(
                        ffn, hidden, RowParallelLinear::Options{mlp.bias, options.post_norm}, context_));
}

at::Tensor Mlp::forward(const at::Tensor& x) const {
  return linear_fc2_->forward(context_->kernels->activation(linear_fc1_->forward(x), mlp_));
}

}  // namespace viaduct::nn
