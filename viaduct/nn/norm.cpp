#include "viaduct/nn/norm.h"

#include <ATen/ATen.h>

namespace viaduct::nn {

NormWeights::NormWeights(torch::nn::Module& owner, const std::string& prefix, int64_t size, double eps,
                         ContextPtr context)
    : context_(std::move(context)), eps_(eps) {
  const models::NormSpec& norm = context_->arch.norm;
  weight_ = owner.register_parameter(prefix + "weight", at::empty({size}, context_->options()));
  if (norm.kind == models::NormKind::kLayer)
    bias_ = owner.register_parameter(prefix + "bias", at::empty({size}, context_->options()));
}

at::Tensor NormWeights::forward(const at::Tensor& x) const {
  const models::NormSpec& norm = context_->arch.norm;
  if (norm.kind == models::NormKind::kRms) return context_->kernels->rms_norm(x, weight_, eps_, norm.zero_centered);
  return context_->kernels->layer_norm(x, weight_, bias_, eps_, norm.zero_centered);
}

Norm::Norm(int64_t size, ContextPtr context) : Norm(size, context->arch.norm.eps, context) {}

Norm::Norm(int64_t size, double eps, ContextPtr context) : weights_(*this, "", size, eps, std::move(context)) {}

}  // namespace viaduct::nn
