// Linear layers, cut among the ranks of a tensor-parallel group by columns (rows of the weight: outputs) or by rows
// (inputs), as Megatron Core cuts them.
#pragma once

#include <torch/nn/module.h>

#include <optional>

#include "viaduct/nn/linear_adapter.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/nn/norm.h"

namespace viaduct::nn {

/// Activations are [s, b, h]; under sequence parallelism those between the tensor-parallel linears hold this rank's
/// s / tp positions.
///
/// A column-parallel linear: weight [out / tp, in]. Its input is whole (gathered under sequence parallelism), its
/// output is this rank's part. With `norm` the norm before it is part of the module
/// (TELayerNormColumnParallelLinear).
class ColumnParallelLinear : public AdaptableLinear {
 public:
  /// What it has beside its weight.
  struct Options {
    bool bias = false;
    std::optional<double> norm_eps;  // a norm of the input, as "layer_norm_weight"
    bool gathers_sequence = true;    // its input is cut along the sequence when the model is sequence parallel
  };
  /// `out` is the whole model's; UserError when the group's size does not divide it.
  ColumnParallelLinear(int64_t in, int64_t out, const Options& options, ContextPtr context);
  /// x [s, b, in] -> [s, b, out / tp].
  at::Tensor forward(const at::Tensor& x) const;

  /// [out / tp, in], and [out / tp], undefined without a bias.
  const at::Tensor& weight() const { return weight_; }
  const at::Tensor& bias() const { return bias_; }

 private:
  ContextPtr context_;
  bool gathers_;
  bool recomputes_norm_;
  std::optional<NormWeights> norm_;
  at::Tensor weight_;
  at::Tensor bias_;
};

/// A row-parallel linear: weight [out, in / tp]. Its input is this rank's part; its output is the sum, whole, or
/// cut along the sequence under sequence parallelism. The bias is added once. With `post_norm` a norm of the output
/// is a module inside ("post_layernorm").
class RowParallelLinear : public AdaptableLinear {
 public:
  /// What it has beside its weight.
  struct Options {
    bool bias = false;
    bool post_norm = false;
  };
  /// `in` is the whole model's; UserError when the group's size does not divide it.
  RowParallelLinear(int64_t in, int64_t out, const Options& options, ContextPtr context);
  /// x [s, b, in / tp] -> [s, b, out].
  at::Tensor forward(const at::Tensor& x) const;

 private:
  ContextPtr context_;
  at::Tensor weight_;
  at::Tensor bias_;
  std::shared_ptr<Norm> post_norm_;
};

/// A linear that every rank has whole: weight [out, in].
class ReplicatedLinear : public AdaptableLinear {
 public:
  /// With a bias [out] or without.
  ReplicatedLinear(int64_t in, int64_t out, bool bias, ContextPtr context);
  /// x [..., in] -> [..., out].
  at::Tensor forward(const at::Tensor& x) const;

 private:
  ContextPtr context_;
  at::Tensor weight_;
  at::Tensor bias_;
};

/// size / parts; UserError that names `what` ("attention heads") and both numbers when it is no whole number.
int64_t divided(int64_t size, int parts, std::string_view what);

}  // namespace viaduct::nn
