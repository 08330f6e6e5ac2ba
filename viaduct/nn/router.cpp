#include "viaduct/nn/router.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

#include "viaduct/core/error.h"
#include "viaduct/nn/expert_capacity.h"
#include "viaduct/nn/router_losses.h"

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

// Logits of nobody's choice, to measure speed with evenly used experts; the gradient goes on to the router's own.
struct RandomLogits : torch::autograd::Function<RandomLogits> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& logits) {
    return at::randn_like(logits);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& gradients) {
    return gradients;
  }
};

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
  return {experts, weights.to(logits_te.scalar_type()), {}, {}};
}

Router::Router(const MoeSpec& moe, int layer, ContextPtr context)
    : context_(std::move(context)), moe_(moe), layer_(layer), dtype_(logits_dtype(moe, *context_)) {
  VIADUCT_USER_CHECK(!moe.expert_bias || moe.score == RouterScore::kSigmoid,
                     "an expert bias goes with sigmoid scores, not with softmax");
  losses_ = std::make_unique<RouterLosses>(moe, layer, context_);
  if (const auto capacity = ExpertCapacity::of(context_->config))
    capacity_ = std::make_unique<ExpertCapacity>(*capacity);
  const at::TensorOptions options = context_->options();
  weight_ = register_parameter("weight", at::empty({moe.num_experts, context_->arch.hidden_size}, options));
  if (moe.router_bias) bias_ = register_parameter("bias", at::empty({moe.num_experts}, options));
  if (!moe.expert_bias) return;
  const at::TensorOptions counts = options.dtype(at::kFloat);
  expert_bias_ = register_buffer("expert_bias", at::zeros({moe.num_experts}, counts));
  local_tokens_per_expert_ = at::zeros({moe.num_experts}, counts);
}

Router::~Router() = default;

at::Tensor Router::logits(const at::Tensor& x_sbh, const ForwardPass& pass) const {
  at::Tensor x = x_sbh;
  if (pass.training && context_->config.moe_input_jitter_eps) {
    const double eps = *context_->config.moe_input_jitter_eps;
    x = x * at::empty_like(x).uniform_(1.0 - eps, 1.0 + eps);
  }
  const at::Tensor bias = bias_.defined() ? bias_.to(dtype_) : bias_;
  const at::Tensor logits_te =
      context_->kernels->linear(x.to(dtype_), weight_.to(dtype_), bias).reshape({-1, moe_.num_experts});
  return context_->config.moe_router_force_load_balancing ? RandomLogits::apply(logits_te) : logits_te;
}

at::Tensor Router::valid_tokens(const at::Tensor& x_sbh, const ForwardPass& pass) const {
  if (!pass.training || !pass.key_valid.defined()) return {};
  const at::Tensor valid_sb = pass.key_valid.t();
  const int64_t positions = x_sbh.size(0);
  const int part = context_->sequence_parallel() ? context_->mesh->tp.rank() : 0;
  VIADUCT_CHECK(positions * (part + 1) <= valid_sb.size(0), "{} positions, {} of them marked", positions,
                valid_sb.size(0));
  return valid_sb.narrow(0, positions * part, positions).reshape(-1);
}

void Router::count(const Routing& routing, const at::Tensor& valid_t) const {
  at::Tensor counted_tk = at::ones_like(routing.experts_tk, local_tokens_per_expert_.options());
  if (routing.kept_tk.defined()) counted_tk = counted_tk * routing.kept_tk;
  if (valid_t.defined()) counted_tk = counted_tk * valid_t.unsqueeze(-1);
  at::Tensor total = local_tokens_per_expert_;
  total.index_add_(0, routing.experts_tk.reshape(-1), counted_tk.reshape(-1));
}

Routing Router::forward(const at::Tensor& x_sbh, ForwardPass& pass) const {
  const at::Tensor valid_t = valid_tokens(x_sbh, pass);
  const at::Tensor logits_te = losses_->attach_z_loss(logits(x_sbh, pass), valid_t, pass);
  Routing routing = choose_experts(logits_te, moe_, expert_bias_);
  if (!pass.training) return routing;
  if (capacity_) routing = limit_to_capacity(routing, moe_.num_experts, *capacity_);
  routing.weights_tk = losses_->attach_balancing(routing.weights_tk, logits_te, x_sbh.size(1), valid_t, pass);
  if (expert_bias_.defined() && pass.has_gradients() && pass.first_time()) count(routing, valid_t);
  return routing;
}

}  // namespace viaduct::nn
