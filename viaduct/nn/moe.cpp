#include "viaduct/nn/moe.h"

#include <ATen/ATen.h>

#include "viaduct/nn/recompute.h"
#include "viaduct/parallel/mappings.h"

namespace viaduct::nn {

MoeLayer::MoeLayer(const models::LayerSpec& spec, int layer, ContextPtr context)
    : context_(std::move(context)), recomputes_shared_experts_(recomputes(*context_, "shared_experts")) {
  const models::MoeSpec& moe = spec.moe.value();
  router_ = register_module("router", std::make_shared<Router>(moe, layer, context_));
  if (moe.latent_size) {
    const int64_t hidden = context_->arch.hidden_size, width = *moe.latent_size;
    fc1_latent_proj_ =
        register_module("fc1_latent_proj", std::make_shared<ReplicatedLinear>(hidden, width, false, context_));
    fc2_latent_proj_ =
        register_module("fc2_latent_proj", std::make_shared<ReplicatedLinear>(width, hidden, false, context_));
  }
  experts_ = register_module("experts", std::make_shared<Experts>(spec.mlp, moe, context_));
  if (moe.shared_ffn_size)
    shared_experts_ = register_module("shared_experts", std::make_shared<SharedExperts>(spec.mlp, moe, context_));
  dispatcher_ = make_token_dispatcher(moe, context_);
}

at::Tensor MoeLayer::routed(const at::Tensor& tokens_th, const Routing& routing) const {
  const parallel::Group& tp = context_->mesh->tp;
  if (tp.alone() || context_->sequence_parallel()) return dispatcher_->forward(tokens_th, routing, *experts_);
  // All ranks of tp have these tokens: each takes a part. Tokens that fill the last part are kept by no expert.
  const int64_t tokens = tokens_th.size(0), part = (tokens + tp.size() - 1) / tp.size();
  const int64_t fill = part * tp.size() - tokens;
  const auto of_rank = [&](const at::Tensor& rows) {
    return parallel::scatter_to_region(at::constant_pad_nd(rows, {0, 0, 0, fill}), tp, 0);
  };
  const at::Tensor kept_tk =
      routing.kept_tk.defined() ? routing.kept_tk : at::ones_like(routing.experts_tk, at::kBool);
  const Routing own{of_rank(routing.experts_tk), of_rank(routing.weights_tk),
                    fill > 0 || routing.kept_tk.defined() ? of_rank(kept_tk) : at::Tensor(), routing.padded_rows};
  const at::Tensor result = dispatcher_->forward(of_rank(tokens_th), own, *experts_);
  return parallel::gather_from_region(result, tp, 0).narrow(0, 0, tokens);
}

at::Tensor MoeLayer::forward(const at::Tensor& x, ForwardPass& pass) const {
  const Routing routing = router_->forward(x, pass);
  at::Tensor tokens_th = x.flatten(0, 1);
  if (fc1_latent_proj_) tokens_th = fc1_latent_proj_->forward(tokens_th);
  at::Tensor result = routed(tokens_th, routing);
  if (fc2_latent_proj_) result = fc2_latent_proj_->forward(result);
  result = result.view(x.sizes());
  if (!shared_experts_) return result;
  return result + recomputed(recomputes_shared_experts_, x, pass,
                             [this](const at::Tensor& now, ForwardPass&) { return shared_experts_->forward(now); });
}

}  // namespace viaduct::nn
