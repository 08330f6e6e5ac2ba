// LatentAttention: multi-head latent attention (MLA) of DeepSeek.
#pragma once

#include "viaduct/nn/attention.h"

namespace viaduct::nn {

/// linear_q_down_proj and linear_q_up_proj (or linear_q_proj alone), linear_kv_down_proj and linear_kv_up_proj,
/// each up projection with the norm of its latent, linear_proj. The cache keeps latents and rotated keys, not
/// heads.
class LatentAttention : public Mixer {
 public:
  /// `layer` counts over the whole model.
  LatentAttention(const models::LayerSpec& spec, int layer, ContextPtr context);
  at::Tensor forward(const at::Tensor& hidden, ForwardPass& pass) const override;

 private:
  // Queries, keys and values of all heads, of what goes up from the down projections: the queries' latent (or the
  // hidden states), that of keys and values, and the shared key.
  std::vector<at::Tensor> project_up(const std::vector<at::Tensor>& down, const ForwardPass& pass) const;
  at::Tensor core_attention(const std::vector<at::Tensor>& qkv, const ForwardPass& pass) const;

  ContextPtr context_;
  models::AttentionSpec spec_;
  models::MlaSpec mla_;
  int layer_;
  int64_t heads_;  // of this rank
  double scale_;
  bool recomputes_up_, recomputes_core_;
  std::shared_ptr<ReplicatedLinear> linear_q_down_proj_;
  std::shared_ptr<ColumnParallelLinear> linear_q_up_proj_;
  std::shared_ptr<ColumnParallelLinear> linear_q_proj_;
  std::shared_ptr<ReplicatedLinear> linear_kv_down_proj_;
  std::shared_ptr<ColumnParallelLinear> linear_kv_up_proj_;
  std::shared_ptr<RowParallelLinear> linear_proj_;
};

}  // namespace viaduct::nn
