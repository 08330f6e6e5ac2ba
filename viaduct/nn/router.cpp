#include "viaduct/nn/router.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::nn {

namespace {

using models::MoeSpec;
using models::RouterScore;

// Scores with those outside of the best `group_top_k` groups replaced by `outside`.
at::Tensor limited_to_groups(const at::Tensor& scores_te, const MoeSpec& moe, double outside) {
  const int64_t groups = moe.groups.value_or(1), chosen = moe.group_top_k.value_or(groups);
  if (chosen >= groups) return scores_te;
  const int64_t tokens = scores_te.size(0), size = scores_te.size(1) / groups;
  const at::Tensor scores_tgi = scores_te.view({tokens, groups, size});
  const int64_t rated = moe.score == RouterScore::kSoftmax ? 1 : std::min<int64_t>(2, size);
  const at::Tensor rating_tg = std::get<0>(scores_tgi.topk(rated, -1)).sum(-1);
  const at::Tensor best_tg = std::get<1>(rating_tg.topk(chosen, -1, /*largest=*/true, /*sorted=*/false));
  const at::Tensor open_tg = at::zeros_like(rating_tg, rating_tg.options().dtype(at::kBool)).scatter(1, best_tg, 1);
  return scores_tgi.masked_fill(open_tg.logical_not().unsqueeze(-1), outside).view({tokens, groups * size});
}

// What the configuration has them computed in.
c10::ScalarType logits_dtype(const MoeSpec& moe, const ModelContext& context) {
  const config::OptString& wanted = context.config.moe_router_dtype;
  VIADUCT_USER_CHECK(!wanted || *wanted == "fp32" || *wanted == "fp64",
                     "model.moe_router_dtype is \"{}\"; there are fp32, fp64 and none", *wanted);
  if (wanted == "fp64" || context.dtype == at::kDouble) return at::kDouble;
  return wanted == "fp32" || moe.router_in_fp32 ? at::kFloat : context.dtype;
}

}  // namespace

Routing choose_experts(const at::Tensor& logits_te, const MoeSpec& moe, const at::Tensor& expert_bias) {
  const auto wide_type = logits_te.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor wide_te = logits_te.to(wide_type);
  at::Tensor weights, experts;
  if (moe.score == RouterScore::kSigmoid) {
    const at::Tensor scores_te = wide_te.sigmoid();
    const at::Tensor choice_te = expert_bias.defined() ? scores_te + expert_bias.to(wide_type) : scores_te;
    experts = std::get<1>(
        limited_to_groups(choice_te.detach(), moe, -std::numeric_limits<double>::infinity()).topk(moe.top_k, -1));
    weights = scores_te.gather(1, experts);
    if (moe.normalize_top_k) weights = weights / (weights.sum(-1, /*keepdim=*/true) + 1e-20);
  } else if (moe.softmax_before_top_k) {
    std::tie(weights, experts) = limited_to_groups(wide_te.softmax(-1), moe, 0.0).topk(moe.top_k, -1);
  } else {
    VIADUCT_CHECK(moe.groups.value_or(1) == 1, "groups of experts whose scores are made after the choice");
    std::tie(weights, experts) = wide_te.topk(moe.top_k, -1);
    weights = weights.softmax(-1);
  }
  if (moe.scaling_factor) weights = weights * *moe.scaling_factor;
  return {experts, weights.to(logits_te.scalar_type()), {}};
}

Router::Router(const MoeSpec& moe, int layer, ContextPtr context)
    : context_(std::move(context)), moe_(moe), layer_(layer), dtype_(logits_dtype(moe, *context_)) {
  VIADUCT_USER_CHECK(!moe.expert_bias || moe.score == RouterScore::kSigmoid,
                     "an expert bias goes with sigmoid scores, not with softmax");
  const at::TensorOptions options = context_->options();
  weight_ = register_parameter("weight", at::empty({moe.num_experts, context_->arch.hidden_size}, options));
  if (moe.router_bias) bias_ = register_parameter("bias", at::empty({moe.num_experts}, options));
  if (!moe.expert_bias) return;
  const at::TensorOptions counts = options.dtype(at::kFloat);
  expert_bias_ = register_buffer("expert_bias", at::zeros({moe.num_experts}, counts));
  local_tokens_per_expert_ = at::zeros({moe.num_experts}, counts);
}

at::Tensor Router::logits(const at::Tensor& x_sbh, const ForwardPass&) const {
  const at::Tensor bias = bias_.defined() ? bias_.to(dtype_) : bias_;
  return context_->kernels->linear(x_sbh.to(dtype_), weight_.to(dtype_), bias).view({-1, moe_.num_experts});
}

Routing Router::forward(const at::Tensor& x_sbh, ForwardPass& pass) const {
  return choose_experts(logits(x_sbh, pass), moe_, expert_bias_);
}

}  // namespace viaduct::nn
