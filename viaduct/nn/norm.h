// Norm: RMSNorm or LayerNorm over the last axis, as a module of its own or inside another.
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// The weights of a norm, registered in a module that owns them under `prefix` + "weight" and "bias". TE's fused
/// layers keep the norm before them as "layer_norm_weight".
class NormWeights {
 public:
  NormWeights() = default;
  /// `eps`: of this norm; kind and zero-centring are the model's.
  NormWeights(torch::nn::Module& owner, const std::string& prefix, int64_t size, double eps, ContextPtr context);

  /// x [..., size], normalised.
  at::Tensor forward(const at::Tensor& x) const;
  /// The parameters, for norms that are computed otherwise; the bias is undefined for RMSNorm.
  const at::Tensor& weight() const { return weight_; }
  /// See weight().
  const at::Tensor& bias() const { return bias_; }

 private:
  ContextPtr context_;
  double eps_ = 0;
  at::Tensor weight_;
  at::Tensor bias_;
};

/// A norm as a module: "weight" and, for LayerNorm, "bias".
class Norm : public torch::nn::Module {
 public:
  /// With the model's eps, or another.
  Norm(int64_t size, ContextPtr context);
  Norm(int64_t size, double eps, ContextPtr context);
  /// x [..., size], normalised.
  at::Tensor forward(const at::Tensor& x) const { return weights_.forward(x); }

 private:
  NormWeights weights_;
};

}  // namespace viaduct::nn
