// Rope: the tables of rotary position embedding.
#pragma once

#include <ATen/core/Tensor.h>

#include "viaduct/models/arch_spec.h"
#include "viaduct/nn/forward_pass.h"

namespace viaduct::nn {

/// Frequencies of one kind of layer. As transformers computes them: in float32, whatever the model's type.
class Rope {
 public:
  /// `head_dim` of which rope.rotary_percent is rotated. `local`: of the layers with a window, whose base is
  /// rope.local_theta, without scaling.
  Rope(const models::RopeSpec& rope, int64_t head_dim, c10::Device device, bool local = false);

  /// cos and sin [s, 1 or b, 1, rotated] for `positions` [s] or [s, b].
  ForwardPass::Rotary tables(const at::Tensor& positions) const;
  /// The frequencies, [rotated / 2] float32.
  const at::Tensor& inverse_frequencies() const { return inverse_frequencies_; }
  /// What cos and sin are multiplied with (YaRN).
  double attention_factor() const { return attention_factor_; }

 private:
  at::Tensor inverse_frequencies_;
  double attention_factor_ = 1.0;
};

/// 0.1 * mscale * ln(factor) + 1, and 1 for factors up to 1: YaRN's correction of attention's temperature.
double yarn_mscale(double factor, double mscale);

/// 1 + beta * ln(1 + floor(position / original length)) for queries [s, 1 or b, 1, 1] (Llama 4, Ministral 3).
at::Tensor position_query_scale(const models::RopeSpec& rope, const at::Tensor& positions);

}  // namespace viaduct::nn
