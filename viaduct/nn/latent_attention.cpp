#include "viaduct/nn/latent_attention.h"

#include <ATen/ATen.h>

#include <cmath>

#include "viaduct/nn/recompute.h"
#include "viaduct/nn/rope.h"
#include "viaduct/parallel/mappings.h"

namespace viaduct::nn {

namespace {

// The checkpoints of these models keep the two elements of a rotated pair side by side; Kernels::rotate wants them
// in two halves. Scores do not change when queries and keys are reordered alike.
at::Tensor pairs_as_halves(const at::Tensor& x) {
  return x.unflatten(-1, {x.size(-1) / 2, 2}).transpose(-1, -2).flatten(-2);
}

double score_scale(const models::RopeSpec& rope, const models::MlaSpec& mla) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(mla.nope_head_dim + mla.rope_head_dim));
  if (rope.scaling != models::RopeScaling::kYarn || rope.mscale_all_dim.value_or(0.0) == 0.0) return scale;
  const double mscale = yarn_mscale(rope.factor, *rope.mscale_all_dim);
  return scale * mscale * mscale;
}

}  // namespace

LatentAttention::LatentAttention(const models::LayerSpec& layer_spec, int layer, ContextPtr context)
    : context_(std::move(context)),
      spec_(layer_spec.attention),
      mla_(spec_.mla.value()),
      layer_(layer),
      recomputes_up_(recomputes(*context_, "mla_up_proj")),
      recomputes_core_(recomputes(*context_, "core_attn")) {
  const int64_t hidden = context_->arch.hidden_size, heads = spec_.num_heads;
  const int64_t query = heads * (mla_.nope_head_dim + mla_.rope_head_dim);
  heads_ = divided(heads, context_->mesh->tp.size(), "attention heads");
  scale_ = score_scale(context_->arch.rope, mla_);
  const auto column = [&](const char* name, int64_t in, int64_t out, std::optional<double> norm_eps) {
    return register_module(name, std::make_shared<ColumnParallelLinear>(
                                     in, out, ColumnParallelLinear::Options{false, norm_eps}, context_));
  };
  const auto replicated = [&](const char* name, int64_t out) {
    return register_module(name, std::make_shared<ReplicatedLinear>(hidden, out, false, context_));
  };
  if (mla_.q_lora_rank) {
    linear_q_down_proj_ = replicated("linear_q_down_proj", *mla_.q_lora_rank);
    linear_q_up_proj_ = column("linear_q_up_proj", *mla_.q_lora_rank, query, mla_.norm_eps);
  } else {
    linear_q_proj_ = column("linear_q_proj", hidden, query, std::nullopt);
  }
  linear_kv_down_proj_ = replicated("linear_kv_down_proj", mla_.kv_lora_rank + mla_.rope_head_dim);
  linear_kv_up_proj_ =
      column("linear_kv_up_proj", mla_.kv_lora_rank, heads * (mla_.nope_head_dim + mla_.v_head_dim), mla_.norm_eps);
  linear_proj_ = register_module(
      "linear_proj", std::make_shared<RowParallelLinear>(
                         heads * mla_.v_head_dim, hidden,
                         RowParallelLinear::Options{spec_.output_bias, layer_spec.post_attention_norm}, context_));
}

std::vector<at::Tensor> LatentAttention::project_up(const std::vector<at::Tensor>& down,
                                                    const ForwardPass& pass) const {
  const Kernels& kernels = *context_->kernels;
  const int64_t nope = mla_.nope_head_dim, turned = mla_.rope_head_dim;
  const at::Tensor rows = (linear_q_proj_ ? linear_q_proj_ : linear_q_up_proj_)->forward(down[0]);
  const at::Tensor query = rows.view({rows.size(0), rows.size(1), heads_, nope + turned});
  at::Tensor latent = down[1];
  at::Tensor shared_key = pairs_as_halves(down[2].unsqueeze(2));  // [s, b, 1, turned]
  at::Tensor query_turned = pairs_as_halves(query.narrow(3, nope, turned));
  if (pass.rotary.cos.defined()) {
    shared_key = kernels.rotate(shared_key, pass.rotary.cos, pass.rotary.sin);
    query_turned = kernels.rotate(query_turned, pass.rotary.cos, pass.rotary.sin);
  }
  if (pass.cache) std::tie(latent, shared_key) = pass.cache->append(layer_, latent, shared_key);
  const at::Tensor up = linear_kv_up_proj_->forward(latent);
  const at::Tensor heads = up.view({up.size(0), up.size(1), heads_, nope + mla_.v_head_dim});
  at::Tensor whole_query = at::cat({query.narrow(3, 0, nope), query_turned}, 3);
  if (pass.query_scale.defined()) whole_query = whole_query * pass.query_scale.to(query.scalar_type());
  return {whole_query, at::cat({heads.narrow(3, 0, nope), shared_key.expand({-1, -1, heads_, -1})}, 3),
          heads.narrow(3, nope, mla_.v_head_dim)};
}

at::Tensor LatentAttention::core_attention(const std::vector<at::Tensor>& qkv, const ForwardPass& pass) const {
  AttentionCall call;
  call.query_sbnd = qkv[0];
  call.key_kbgd = qkv[1];
  call.value_kbgv = qkv[2];
  call.scale = scale_;
  call.softcap = spec_.logit_softcap;
  call.mask.window = spec_.window;
  call.mask.key_valid = pass.key_valid;
  call.mask.packed = pass.packed;
  if (pass.training) call.dropout = context_->config.attention_dropout;
  return context_->kernels->attention(call);
}

at::Tensor LatentAttention::forward(const at::Tensor& normed, ForwardPass& pass) const {
  const parallel::Group& tp = context_->mesh->tp;
  const at::Tensor query_latent = linear_q_down_proj_ ? linear_q_down_proj_->forward(normed) : normed;
  const at::Tensor down = linear_kv_down_proj_->forward(normed);
  // One rotated key for all heads of all ranks.
  at::Tensor shared_key = down.narrow(2, mla_.kv_lora_rank, mla_.rope_head_dim);
  shared_key = context_->sequence_parallel() ? parallel::gather_and_reduce_grad(shared_key, tp, 0)
                                             : parallel::copy_to_region(shared_key, tp);
  const auto up = [this](const std::vector<at::Tensor>& x, const ForwardPass& now) { return project_up(x, now); };
  const auto core = [this](const std::vector<at::Tensor>& qkv, const ForwardPass& now) {
    return std::vector<at::Tensor>{core_attention(qkv, now)};
  };
  return linear_proj_->forward(recomputed_for(
      recomputes_up_, {query_latent, down.narrow(2, 0, mla_.kv_lora_rank), shared_key}, pass, up,
      [&](const std::vector<at::Tensor>& qkv) { return recomputed(recomputes_core_, qkv, pass, core).front(); }));
}

}  // namespace viaduct::nn
