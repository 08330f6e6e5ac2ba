#include "viaduct/nn/torch_attention.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"
#include "viaduct/nn/packed_attention.h"

namespace viaduct::nn {

namespace {

// Is the mask just the usual triangle over as many queries as keys, so that kernels need no mask tensor?
bool plain_causal(const AttentionCall& call) {
  const AttentionMask& mask = call.mask;
  const int64_t keys = call.key_kbgd.size(0), queries = call.query_sbnd.size(0);
  return mask.causal && !mask.key_valid.defined() && queries == keys && (!mask.window || *mask.window >= keys);
}

// Does every query see every key?
bool sees_all(const AttentionCall& call) {
  const AttentionMask& mask = call.mask;
  if (mask.key_valid.defined() || (mask.window && *mask.window < call.key_kbgd.size(0))) return false;
  return !mask.causal || call.query_sbnd.size(0) == 1;
}

// [1 or b, 1, s, k] bool: true where a query sees a key.
at::Tensor visible(const AttentionCall& call) {
  const AttentionMask& mask = call.mask;
  const int64_t queries = call.query_sbnd.size(0), keys = call.key_kbgd.size(0);
  const at::TensorOptions options = at::TensorOptions().dtype(at::kLong).device(call.query_sbnd.device());
  const at::Tensor key = at::arange(keys, options).view({1, keys});
  const at::Tensor query = at::arange(keys - queries, keys, options).view({queries, 1});
  at::Tensor result = at::ones({queries, keys}, options.dtype(at::kBool));
  if (mask.causal) result = key <= query;
  if (mask.window) {
    result = result & (query - key < *mask.window);
    if (!mask.causal) result = result & (key - query < *mask.window);
  }
  result = result.view({1, 1, queries, keys});
  // A padded query must see something, or its softmax is 0 / 0: itself.
  if (mask.key_valid.defined())
    result = result & (mask.key_valid.view({-1, 1, 1, keys}) | (key == query).view({1, 1, queries, keys}));
  return result;
}

// [b, n, k, d] of [k, b, g, d]: every key head for all its query heads.
at::Tensor repeated(const at::Tensor& heads_kbgd, int64_t repeats) {
  const at::Tensor x = heads_kbgd.permute({1, 2, 0, 3});
  if (repeats == 1) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), repeats, x.size(2), x.size(3)})
      .reshape({x.size(0), x.size(1) * repeats, x.size(2), x.size(3)});
}

at::Tensor merged_heads(const at::Tensor& result_bnsv) {
  const at::Tensor x = result_bnsv.permute({2, 0, 1, 3});
  return x.reshape({x.size(0), x.size(1), -1});
}

// The softmax of scores [b, x, y, k], all that lies between them included. `sinks`: shaped to be a column of them.
at::Tensor shares_of(at::Tensor scores, const at::Tensor& sinks, const AttentionCall& call) {
  scores = scores * call.scale;
  if (call.softcap) scores = at::tanh(scores / *call.softcap) * *call.softcap;
  if (scores.scalar_type() != at::kDouble) scores = scores.to(at::kFloat);
  if (!sees_all(call)) scores = scores.masked_fill(visible(call).logical_not(), -INFINITY);
  at::Tensor shares;
  if (sinks.defined()) {
    const at::Tensor column =
        sinks.to(scores.scalar_type()).expand({scores.size(0), scores.size(1), scores.size(2), 1});
    shares = at::softmax(at::cat({scores, column}, -1), -1).narrow(-1, 0, scores.size(-1));
  } else {
    shares = at::softmax(scores, -1);
  }
  if (call.dropout > 0.0) shares = at::dropout(shares, call.dropout, /*train=*/true);
  return shares.to(call.value_kbgv.scalar_type());
}

at::Tensor unfused(const AttentionCall& call) {
  const int64_t repeats = call.query_sbnd.size(2) / call.key_kbgd.size(2);
  const at::Tensor query = call.query_sbnd.permute({1, 2, 0, 3});
  const at::Tensor key = repeated(call.key_kbgd, repeats), value = repeated(call.value_kbgv, repeats);
  const at::Tensor sinks = call.sinks_n.defined() ? call.sinks_n.view({1, -1, 1, 1}) : at::Tensor();
  return merged_heads(at::matmul(shares_of(at::matmul(query, key.transpose(-1, -2)), sinks, call), value));
}

// One query a sequence, as when tokens are generated: the heads of a group stand in the place of positions, so that
// keys and values need not be repeated. (cuDNN's fused kernel would be planned anew for every length.)
at::Tensor single_query(const AttentionCall& call) {
  const int64_t sequences = call.query_sbnd.size(1), groups = call.key_kbgd.size(2);
  const at::Tensor query = call.query_sbnd.reshape({sequences, groups, -1, call.query_sbnd.size(3)});
  const at::Tensor key = call.key_kbgd.permute({1, 2, 3, 0}), value = call.value_kbgv.permute({1, 2, 0, 3});
  const at::Tensor sinks = call.sinks_n.defined() ? call.sinks_n.view({1, groups, -1, 1}) : at::Tensor();
  return at::matmul(shares_of(at::matmul(query, key), sinks, call), value).reshape({1, sequences, -1});
}

at::Tensor fused(const AttentionCall& call) {
  const int64_t repeats = call.query_sbnd.size(2) / call.key_kbgd.size(2);
  const at::Tensor query = call.query_sbnd.permute({1, 2, 0, 3});
  const at::Tensor key = repeated(call.key_kbgd, repeats), value = repeated(call.value_kbgv, repeats);
  const bool causal = plain_causal(call);
  std::optional<at::Tensor> mask;
  if (!causal && !sees_all(call)) mask = visible(call);
  return merged_heads(at::scaled_dot_product_attention(query, key, value, mask, call.dropout, causal, call.scale));
}

// On a CPU in half precision scores are rounded as transformers' eager attention rounds them, so that routers
// behind it choose the same experts; there the fused kernel saves memory alone.
bool rounds_scores(const AttentionCall& call) {
  return call.query_sbnd.is_cpu() && at::isReducedFloatingType(call.query_sbnd.scalar_type());
}

}  // namespace

at::Tensor torch_attention(const AttentionCall& call, AttentionBackend backend) {
  VIADUCT_CHECK(call.query_sbnd.size(2) % call.key_kbgd.size(2) == 0, "{} heads, {} of keys",
                call.query_sbnd.size(2), call.key_kbgd.size(2));
  if (call.mask.packed)
    return packed_attention(call, [&](const AttentionCall& one) { return torch_attention(one, backend); });
  const bool fusable = !call.softcap && !call.sinks_n.defined();
  switch (backend) {
    case AttentionBackend::kUnfused:
    case AttentionBackend::kLocal: return unfused(call);
    case AttentionBackend::kAuto:
      if (call.query_sbnd.size(0) == 1) return single_query(call);
      return fusable && !rounds_scores(call) ? fused(call) : unfused(call);
    case AttentionBackend::kFlash:
    case AttentionBackend::kFused:
      VIADUCT_USER_CHECK(fusable,
                         "model.attention_backend=flash and =fused know neither soft-capped scores nor attention "
                         "sinks, which this model has: take auto or unfused");
      return fused(call);
  }
  throw InternalError("an attention backend that is none");
}

}  // namespace viaduct::nn
