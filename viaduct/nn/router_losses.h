// RouterLosses: what training adds to the loss to keep a layer's experts evenly used and its router's logits small.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// `activation`, unchanged, through which `loss` (a scalar) gets the gradient `scale` in the backward pass.
at::Tensor attach_loss(const at::Tensor& activation, const at::Tensor& loss, double scale);

/// The loss of the Switch Transformer, equation 4 of https://arxiv.org/abs/2101.03961, over k choices:
/// coefficient * experts / (k * tokens^2) * sum over experts of (its probability, summed over the tokens) *
/// (how many tokens chose it). Zero-dimensional.
at::Tensor switch_load_balancing_loss(const at::Tensor& probability_per_expert, const at::Tensor& tokens_per_expert,
                                      const at::Tensor& num_tokens, int64_t top_k, int64_t num_experts,
                                      double coefficient);

/// The losses of one router as model.moe_router_load_balancing_type ("aux_loss", "seq_aux_loss", "global_aux_loss",
/// "none", or a list), model.moe_aux_loss_coeff and model.moe_z_loss_coeff set them; formulas and what is summed
/// over which ranks as in Megatron Core. Where all ranks of tp route the same tokens, each has the whole loss.
/// Nothing happens outside of training or where no gradients are recorded.
class RouterLosses {
 public:
  /// UserError for types that are not known here (sinkhorn, quantile_balancing) and for lists of unequal length.
  RouterLosses(const models::MoeSpec& moe, int layer, ContextPtr context);

  /// Logits [t, experts] that carry the z-loss, the mean of the squared log-sum-exp
  /// (https://arxiv.org/abs/2202.08906). `valid_t` (bool): tokens that are no padding; undefined: all.
  at::Tensor attach_z_loss(const at::Tensor& logits_te, const at::Tensor& valid_t, ForwardPass& pass) const;
  /// `weights_tk` that carry the balancing losses of the choices that the `logits_te` of s * b tokens, in this
  /// order, would make.
  at::Tensor attach_balancing(const at::Tensor& weights_tk, const at::Tensor& logits_te, int64_t batch,
                              const at::Tensor& valid_t, ForwardPass& pass) const;
  /// Forgets the micro-batches that the global loss has counted: once a training step.
  void reset_global() const;

 private:
  enum class Kind { kMicroBatch, kSequence, kGlobal };
  struct Loss {
    Kind kind;
    double coefficient;
  };
  struct Scores;

  at::Tensor attach(const at::Tensor& activation, const at::Tensor& loss, const at::Tensor& local_tokens,
                    const ForwardPass& pass) const;
  at::Tensor balancing(const Loss& loss, const Scores& scores, const at::Tensor& weights_tk,
                       ForwardPass& pass) const;
  bool active(const ForwardPass& pass) const;
  void sum_over_parts(at::Tensor& tensor, bool global) const;
  int num_parts(bool global) const;

  ContextPtr context_;
  models::MoeSpec moe_;
  int layer_;
  std::vector<Loss> losses_;
  double z_coefficient_ = 0;
  at::Tensor global_tokens_per_expert_;  // float64, summed over micro-batches
  at::Tensor global_steps_;              // float64, how many
};

}  // namespace viaduct::nn
