#include "viaduct/nn/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "viaduct/core/error.h"

namespace viaduct::nn {

namespace {

using models::RopeScaling;
using models::RopeSpec;

// Llama 3.1: long wavelengths are divided by the factor, short ones stay, those between are blended.
at::Tensor smoothly_scaled(const at::Tensor& frequencies, const RopeSpec& rope) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const at::Tensor wavelength = 2.0 * std::numbers::pi / frequencies;
  const at::Tensor scaled =
      at::where(wavelength > original / rope.low_freq_factor, frequencies / rope.factor, frequencies);
  const at::Tensor blend =
      (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor blended = (1.0 - blend) * scaled / rope.factor + blend * scaled;
  const at::Tensor between =
      (wavelength >= original / rope.high_freq_factor) & (wavelength <= original / rope.low_freq_factor);
  return at::where(between, blended, scaled);
}

// YaRN: the dimension that turns `rotations` times within the original length.
double correction_dim(const RopeSpec& rope, double rotations, int64_t dim) {
  return static_cast<double>(dim) *
         std::log(static_cast<double>(rope.original_max_positions) / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

at::Tensor yarn_scaled(const at::Tensor& powers, const RopeSpec& rope, int64_t dim) {
  double low = correction_dim(rope, rope.beta_fast, dim), high = correction_dim(rope, rope.beta_slow, dim);
  if (rope.truncate.value_or(true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp = ((at::arange(dim / 2, powers.options()) - low) / (high - low)).clamp(0.0, 1.0);
  const at::Tensor kept = 1.0 - ramp;
  return 1.0 / (rope.factor * powers) * (1.0 - kept) + 1.0 / powers * kept;
}

}  // namespace

double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

Rope::Rope(const RopeSpec& rope, int64_t head_dim, c10::Device device, bool local) {
  const auto dim = static_cast<int64_t>(static_cast<double>(head_dim) * rope.rotary_percent);
  VIADUCT_USER_CHECK(dim > 0 && dim % 2 == 0,
                     "rotary embedding of {} of {} elements of a head: wants an even number", dim, head_dim);
  const at::Tensor exponents =
      at::arange(0, dim, 2, at::TensorOptions().dtype(at::kLong)).to(at::kFloat) / static_cast<double>(dim);
  const at::Tensor powers = at::pow(at::Scalar(local ? rope.local_theta.value() : rope.theta), exponents);
  at::Tensor frequencies = 1.0 / powers;
  if (!local) {
    switch (rope.scaling) {
      case RopeScaling::kNone: break;
      case RopeScaling::kLinear: frequencies = frequencies / rope.factor; break;
      case RopeScaling::kLlama3: frequencies = smoothly_scaled(frequencies, rope); break;
      case RopeScaling::kYarn: {
        frequencies = yarn_scaled(powers, rope, dim);
        const bool both = rope.mscale.value_or(0.0) != 0.0 && rope.mscale_all_dim.value_or(0.0) != 0.0;
        attention_factor_ =
            rope.attention_factor ? *rope.attention_factor
            : both ? yarn_mscale(rope.factor, *rope.mscale) / yarn_mscale(rope.factor, *rope.mscale_all_dim)
                   : yarn_mscale(rope.factor, 1.0);
        break;
      }
    }
  }
  inverse_frequencies_ = frequencies.to(device);
}

ForwardPass::Rotary Rope::tables(const at::Tensor& positions) const {
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(-1) * inverse_frequencies_;
  at::Tensor both = at::cat({angles, angles}, -1).unsqueeze(-2);  // [s, 1, r] or [s, b, 1, r]
  if (positions.dim() == 1) both = both.unsqueeze(1);
  if (attention_factor_ == 1.0) return {both.cos(), both.sin()};
  return {both.cos() * attention_factor_, both.sin() * attention_factor_};
}

at::Tensor position_query_scale(const RopeSpec& rope, const at::Tensor& positions) {
  const at::Tensor turns = at::floor(positions.to(at::kFloat) / static_cast<double>(rope.original_max_positions));
  const at::Tensor scale = 1.0 + rope.llama_4_scaling_beta.value() * at::log(1.0 + turns);
  return positions.dim() == 1 ? scale.view({-1, 1, 1, 1}) : scale.unsqueeze(-1).unsqueeze(-1);
}

}  // namespace viaduct::nn
