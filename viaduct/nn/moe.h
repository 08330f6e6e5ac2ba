// MoeLayer: a mixture of experts in the place of a layer's MLP.
#pragma once

#include <torch/nn/module.h>

#include <memory>

#include "viaduct/nn/experts.h"
#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/linear.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/nn/router.h"
#include "viaduct/nn/shared_experts.h"
#include "viaduct/nn/token_dispatcher.h"

namespace viaduct::nn {

/// router, experts, and shared_experts where there are some; fc1_latent_proj and fc2_latent_proj around experts
/// that work at another width.
///
/// Gradients. Every token is computed by the experts of one replica of the model once, whatever the layout: under
/// sequence parallelism the ranks of tp have different tokens; without it they route the same tokens and compute a
/// part of them each. So an expert's gradient, summed over edp, is that of dp x cp replicas' losses together.
/// Router, latent projections and shared experts' gate have partial gradients under sequence parallelism, like all
/// whole parameters there, and else complete ones.
class MoeLayer : public torch::nn::Module {
 public:
  /// `layer` counts over the whole model.
  MoeLayer(const models::LayerSpec& spec, int layer, ContextPtr context);
  /// x [s, b, h], normalised -> [s, b, h]; under sequence parallelism this rank's positions.
  at::Tensor forward(const at::Tensor& x, ForwardPass& pass) const;

  /// For statistics and settings that training keeps in it.
  const Router& router() const { return *router_; }

 private:
  at::Tensor routed(const at::Tensor& tokens_th, const Routing& routing) const;

  ContextPtr context_;
  bool recomputes_shared_experts_;
  std::shared_ptr<Router> router_;
  std::shared_ptr<Experts> experts_;
  std::shared_ptr<SharedExperts> shared_experts_;
  std::shared_ptr<ReplicatedLinear> fc1_latent_proj_;
  std::shared_ptr<ReplicatedLinear> fc2_latent_proj_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
};

}  // namespace viaduct::nn
