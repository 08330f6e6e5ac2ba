#include "viaduct/nn/attention.h"

#include <ATen/ATen.h>

#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/nn/recompute.h"
#include "viaduct/parallel/mappings.h"

namespace viaduct::nn {

using models::AttentionSpec;
using models::QkNorm;

namespace {

// Holds the learned logits under the name that Megatron gives them.
class CoreAttention : public torch::nn::Module {
 public:
  CoreAttention(int64_t heads, const ModelContext& context)
      : softmax_offset(register_parameter("softmax_offset", at::empty({heads}, context.options()))) {}
  at::Tensor softmax_offset;
};

// [s, b, n, d] as [s, b, n * d].
at::Tensor flat(const at::Tensor& heads) { return heads.flatten(2); }

}  // namespace

SelfAttention::SelfAttention(const models::LayerSpec& layer_spec, int layer, ContextPtr context)
    : context_(std::move(context)),
      spec_(layer_spec.attention),
      layer_(layer),
      recomputes_core_(recomputes(*context_, "core_attn")) {
  const int64_t hidden = context_->arch.hidden_size, dim = spec_.head_dim;
  const int tp = context_->mesh->tp.size();
  VIADUCT_USER_CHECK(!spec_.output_gate, "gated attention is not part of this program's model yet");
  heads_ = divided(spec_.num_heads, tp, "attention heads");
  VIADUCT_USER_CHECK(spec_.num_query_groups % tp == 0 || tp % spec_.num_query_groups == 0,
                     "{} query groups cannot be divided among {} ranks, nor the ranks among them",
                     spec_.num_query_groups, tp);
  linear_qkv_ = register_module(
      "linear_qkv", std::make_shared<ColumnParallelLinear>(
                        hidden, (spec_.num_heads + 2 * spec_.num_query_groups) * dim,
                        ColumnParallelLinear::Options{spec_.qkv_bias, context_->arch.norm.eps}, context_));
  if (spec_.sinks)
    sinks_ = register_module("core_attention", std::make_shared<CoreAttention>(heads_, *context_))->softmax_offset;
  if (spec_.qk_norm != QkNorm::kNone) {
    const bool per_head = spec_.qk_norm == QkNorm::kPerHead;
    q_layernorm_ =
        register_module("q_layernorm", std::make_shared<Norm>(per_head ? dim : spec_.num_heads * dim, context_));
    k_layernorm_ = register_module("k_layernorm",
                                   std::make_shared<Norm>(per_head ? dim : spec_.num_query_groups * dim, context_));
  }
  linear_proj_ = register_module(
      "linear_proj", std::make_shared<RowParallelLinear>(
                         spec_.num_heads * dim, hidden,
                         RowParallelLinear::Options{spec_.output_bias, layer_spec.post_attention_norm}, context_));
}

SelfAttention::Heads SelfAttention::split_heads(const at::Tensor& rows_sbr) const {
  const int64_t dim = spec_.head_dim, queries = spec_.num_heads / spec_.num_query_groups;
  const at::Tensor groups = rows_sbr.view({rows_sbr.size(0), rows_sbr.size(1), -1, queries + 2, dim});
  // [s, b, g, queries, d] -> [s, b, g * queries, d]: the heads of a group stand together.
  return {groups.narrow(3, 0, queries).flatten(2, 3), groups.select(3, queries), groups.select(3, queries + 1)};
}

at::Tensor SelfAttention::normed_heads(const at::Tensor& heads_sbnd, const Norm& norm) const {
  if (spec_.qk_norm == QkNorm::kPerHead) return norm.forward(heads_sbnd);
  // Over the full width: the norm is of all ranks' heads together.
  const parallel::Group& tp = context_->mesh->tp;
  const at::Tensor own = flat(heads_sbnd);
  if (tp.alone() || tp.size() > spec_.num_query_groups) return norm.forward(own).view_as(heads_sbnd);
  const at::Tensor all = norm.forward(parallel::gather_and_reduce_grad(own, tp, 2));
  return all.narrow(2, tp.rank() * own.size(2), own.size(2)).view_as(heads_sbnd);
}

at::Tensor SelfAttention::core_attention(const Heads& heads, const ForwardPass& pass) const {
  AttentionCall call;
  call.query_sbnd = heads.query_sbnd;
  call.key_kbgd = heads.key_sbgd;
  call.value_kbgv = heads.value_sbgd;
  call.scale = 1.0 / std::sqrt(spec_.query_scale_dim.value_or(static_cast<double>(spec_.head_dim)));
  call.softcap = spec_.logit_softcap;
  call.sinks_n = sinks_;
  call.mask.window = spec_.window;
  call.mask.key_valid = pass.key_valid;
  call.mask.packed = pass.packed;
  if (pass.training) call.dropout = context_->config.attention_dropout;
  return context_->kernels->attention(call);
}

at::Tensor SelfAttention::forward(const at::Tensor& hidden, ForwardPass& pass) const {
  const parallel::Group& tp = context_->mesh->tp;
  const Kernels& kernels = *context_->kernels;
  at::Tensor rows = linear_qkv_->forward(hidden);
  // With more ranks than groups a rank's rows are part of a group: take all, and of them what this rank's heads
  // use.
  const int64_t ranks_per_group = tp.size() / spec_.num_query_groups;
  const bool shares_groups = ranks_per_group > 1;
  if (shares_groups) rows = parallel::gather_and_reduce_grad(rows, tp, 2);
  Heads heads = split_heads(rows);
  if (q_layernorm_) {
    heads.query_sbnd = normed_heads(heads.query_sbnd, *q_layernorm_);
    heads.key_sbgd = normed_heads(heads.key_sbgd, *k_layernorm_);
  }
  if (shares_groups) {
    const int64_t group = tp.rank() / ranks_per_group;
    heads.query_sbnd = heads.query_sbnd.narrow(2, tp.rank() * heads_, heads_);
    heads.key_sbgd = heads.key_sbgd.narrow(2, group, 1);
    heads.value_sbgd = heads.value_sbgd.narrow(2, group, 1);
  }
  const ForwardPass::Rotary& rotary =
      spec_.window && pass.local_rotary.cos.defined() ? pass.local_rotary : pass.rotary;
  if (rotary.cos.defined()) {
    heads.query_sbnd = kernels.rotate(heads.query_sbnd, rotary.cos, rotary.sin);
    heads.key_sbgd = kernels.rotate(heads.key_sbgd, rotary.cos, rotary.sin);
  }
  if (pass.query_scale.defined())
    heads.query_sbnd = heads.query_sbnd * pass.query_scale.to(heads.query_sbnd.scalar_type());
  if (pass.cache)
    std::tie(heads.key_sbgd, heads.value_sbgd) = pass.cache->append(layer_, heads.key_sbgd, heads.value_sbgd);
  const auto core = [this](const std::vector<at::Tensor>& qkv, const ForwardPass& now) {
    return std::vector<at::Tensor>{core_attention({qkv[0], qkv[1], qkv[2]}, now)};
  };
  return linear_proj_->forward(
      recomputed(recomputes_core_, {heads.query_sbnd, heads.key_sbgd, heads.value_sbgd}, pass, core).front());
}

std::vector<at::Tensor> SelfAttention::partial_gradients() const {
  std::vector<at::Tensor> result;
  for (const auto& norm : {q_layernorm_, k_layernorm_})
    if (norm)
      for (const at::Tensor& parameter : norm->parameters()) result.push_back(parameter);
  return result;
}

LinearBlock::LinearBlock(const ContextPtr& context)
    : ColumnParallelLinear(context->arch.hidden_size, context->arch.hidden_size, {false, context->arch.norm.eps},
                           context),
      context_(context) {}

at::Tensor LinearBlock::forward(const at::Tensor& hidden) const {
  const parallel::Group& tp = context_->mesh->tp;
  const at::Tensor whole = parallel::gather_from_region(ColumnParallelLinear::forward(hidden), tp, 2);
  return context_->sequence_parallel() ? parallel::scatter_to_region(whole, tp, 0) : whole;
}

}  // namespace viaduct::nn
