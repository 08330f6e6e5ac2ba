// SelfAttention: multi-head, grouped-query and multi-query attention.
#pragma once

#include <torch/nn/module.h>

#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/gradients.h"
#include "viaduct/nn/linear.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/nn/norm.h"

namespace viaduct::nn {

/// What mixes the positions of a layer.
class Mixer : public torch::nn::Module {
 public:
  /// hidden [s, b, h] -> [s, b, h]; under sequence parallelism this rank's positions. Normalised by the module
  /// itself, but for LatentAttention, whose norm is the layer's.
  virtual at::Tensor forward(const at::Tensor& hidden, ForwardPass& pass) const = 0;
};

/// linear_qkv with the norm before it, q_layernorm and k_layernorm, core_attention, linear_proj. A tensor-parallel
/// rank has its share of the heads; of fewer key heads than ranks, several ranks use the same one.
class SelfAttention : public Mixer, public HasPartialGradients {
 public:
  /// `layer` counts over the whole model.
  SelfAttention(const models::LayerSpec& spec, int layer, ContextPtr context);
  at::Tensor forward(const at::Tensor& hidden, ForwardPass& pass) const override;
  std::vector<at::Tensor> partial_gradients() const override;

 private:
  struct Heads {
    at::Tensor query_sbnd;
    at::Tensor key_sbgd;
    at::Tensor value_sbgd;
  };
  Heads split_heads(const at::Tensor& rows_sbr) const;
  at::Tensor normed_heads(const at::Tensor& heads_sbnd, const Norm& norm) const;
  at::Tensor core_attention(const Heads& heads, const ForwardPass& pass) const;

  ContextPtr context_;
  models::AttentionSpec spec_;
  int layer_;
  bool recomputes_core_;
  int64_t heads_;  // of this rank
  std::shared_ptr<ColumnParallelLinear> linear_qkv_;
  std::shared_ptr<RowParallelLinear> linear_proj_;
  std::shared_ptr<Norm> q_layernorm_;
  std::shared_ptr<Norm> k_layernorm_;
  at::Tensor sinks_;
};

/// What replaces attention or MLP in some layers of heterogeneous models: one projection of the hidden states, with
/// the norm before it.
class LinearBlock : public ColumnParallelLinear {
 public:
  /// Of the model's hidden size.
  explicit LinearBlock(const ContextPtr& context);
  /// hidden [s, b, h], not yet normalised -> [s, b, h].
  at::Tensor forward(const at::Tensor& hidden) const;

 private:
  ContextPtr context_;
};

}  // namespace viaduct::nn
