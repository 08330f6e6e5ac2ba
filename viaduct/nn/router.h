// Router: chooses each token's experts and how much each of them adds.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <optional>

#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

class RouterLosses;
struct ExpertCapacity;

/// The chosen experts of t tokens, k each.
struct Routing {
  at::Tensor experts_tk;               // int64
  at::Tensor weights_tk;               // of the experts' outputs; 0 where not kept
  at::Tensor kept_tk;                  // bool: false where an expert was full; undefined: all are kept
  std::optional<int64_t> padded_rows;  // rows that each expert gets, zeros behind the tokens'; none: the tokens'
};

/// What transformers' routers make of logits [t, experts]: the scores, the groups that the choice is limited to
/// (rated by their best expert for softmax scores, by the sum of their best two for sigmoid ones), the choice, and
/// the weights, normalised and scaled as `moe` says. Computed in float32 or wider; the weights have the logits'
/// type. `expert_bias` [experts] counts for the choice alone; undefined: none.
Routing choose_experts(const at::Tensor& logits_te, const models::MoeSpec& moe, const at::Tensor& expert_bias);

/// "router": weight [experts, hidden], bias [experts] where the model has one, and expert_bias [experts], float32,
/// a buffer. Every rank has them whole.
class Router : public torch::nn::Module {
 public:
  /// `layer` counts over the whole model. UserError for settings that no router here has.
  Router(const models::MoeSpec& moe, int layer, ContextPtr context);
  ~Router() override;

  /// x [s, b, h] -> the routing of its s * b tokens. In training with the capacity limit, the auxiliary losses (see
  /// router_losses.h) and the jitter that the configuration asks for.
  Routing forward(const at::Tensor& x_sbh, ForwardPass& pass) const;

  /// How many tokens of this rank each expert got [experts], float32, summed over the training passes since it was
  /// last set to zero: what the update of expert_bias goes by. Undefined without an expert bias.
  const at::Tensor& local_tokens_per_expert() const { return local_tokens_per_expert_; }
  /// The buffer; undefined without one.
  const at::Tensor& expert_bias() const { return expert_bias_; }
  /// For what training resets each step.
  const RouterLosses& losses() const { return *losses_; }

 private:
  at::Tensor logits(const at::Tensor& x_sbh, const ForwardPass& pass) const;
  at::Tensor valid_tokens(const at::Tensor& x_sbh, const ForwardPass& pass) const;
  void count(const Routing& routing, const at::Tensor& valid_t) const;

  ContextPtr context_;
  models::MoeSpec moe_;
  int layer_;
  c10::ScalarType dtype_;  // of the logits
  at::Tensor weight_;
  at::Tensor bias_;
  at::Tensor expert_bias_;
  at::Tensor local_tokens_per_expert_;
  std::unique_ptr<RouterLosses> losses_;
  std::unique_ptr<ExpertCapacity> capacity_;  // null: none
};

}  // namespace viaduct::nn
