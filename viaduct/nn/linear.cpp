#include "viaduct/nn/linear.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"
#include "viaduct/nn/recompute.h"
#include "viaduct/parallel/mappings.h"
#include "viaduct/torchx/recompute.h"

namespace viaduct::nn {

int64_t divided(int64_t size, int parts, std::string_view what) {
  VIADUCT_USER_CHECK(size % parts == 0, "{} {} cannot be divided among {} ranks", size, what, parts);
  return size / parts;
}

ColumnParallelLinear::ColumnParallelLinear(int64_t in, int64_t out, const Options& options, ContextPtr context)
    : context_(std::move(context)),
      gathers_(options.gathers_sequence && context_->sequence_parallel()),
      recomputes_norm_(options.norm_eps && recomputes(*context_, "layernorm")) {
  const int64_t rows = divided(out, context_->mesh->tp.size(), "outputs of a column-parallel linear");
  if (options.norm_eps) norm_.emplace(*this, "layer_norm_", in, *options.norm_eps, context_);
  weight_ = register_parameter("weight", at::empty({rows, in}, context_->options()));
  if (options.bias) bias_ = register_parameter("bias", at::empty({rows}, context_->options()));
}

at::Tensor ColumnParallelLinear::forward(const at::Tensor& x) const {
  const parallel::Group& tp = context_->mesh->tp;
  const auto product = [&](const at::Tensor& normed) {
    const at::Tensor whole =
        gathers_ ? parallel::gather_and_reduce_grad(normed, tp, 0) : parallel::copy_to_region(normed, tp);
    return adapted(context_->kernels->linear(whole, weight_, bias_), whole);
  };
  if (!norm_) return product(x);
  const auto norm = [this](const at::Tensor& input) { return norm_->forward(input); };
  return recomputes_norm_ ? torchx::recomputed_for(x, norm, product) : product(norm(x));
}

RowParallelLinear::RowParallelLinear(int64_t in, int64_t out, const Options& options, ContextPtr context)
    : context_(std::move(context)) {
  const int64_t columns = divided(in, context_->mesh->tp.size(), "inputs of a row-parallel linear");
  weight_ = register_parameter("weight", at::empty({out, columns}, context_->options()));
  if (options.bias) bias_ = register_parameter("bias", at::empty({out}, context_->options()));
  if (options.post_norm) post_norm_ = register_module("post_layernorm", std::make_shared<Norm>(out, context_));
}

at::Tensor RowParallelLinear::forward(const at::Tensor& x) const {
  const parallel::Group& tp = context_->mesh->tp;
  // Alone, the bias can be part of the product.
  at::Tensor result = context_->kernels->linear(x, weight_, tp.alone() ? bias_ : at::Tensor());
  if (context_->sequence_parallel()) {
    result = parallel::reduce_scatter_to_region(result, tp, 0);
  } else {
    result = parallel::reduce_from_region(result, tp);
  }
  if (bias_.defined() && !tp.alone()) result = result + bias_;
  result = adapted(result, x);
  return post_norm_ ? post_norm_->forward(result) : result;
}

ReplicatedLinear::ReplicatedLinear(int64_t in, int64_t out, bool bias, ContextPtr context)
    : context_(std::move(context)) {
  weight_ = register_parameter("weight", at::empty({out, in}, context_->options()));
  if (bias) bias_ = register_parameter("bias", at::empty({out}, context_->options()));
}

at::Tensor ReplicatedLinear::forward(const at::Tensor& x) const {
  return adapted(context_->kernels->linear(x, weight_, bias_), x);
}

}  // namespace viaduct::nn
