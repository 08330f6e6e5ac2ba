#include "viaduct/infer/sampling.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "viaduct/core/error.h"

namespace viaduct::infer {

void SamplingOptions::validate() const {
  VIADUCT_USER_CHECK(temperature >= 0.0 && std::isfinite(temperature), "temperature {} is not 0 or more",
                     temperature);
  VIADUCT_USER_CHECK(top_k >= 0, "top_k {} is not 0 (all tokens) or more", top_k);
  VIADUCT_USER_CHECK(top_p > 0.0 && top_p <= 1.0, "top_p {} is not above 0 and at most 1", top_p);
  VIADUCT_USER_CHECK(min_p >= 0.0 && min_p <= 1.0, "min_p {} is not between 0 and 1", min_p);
}

at::Tensor filtered_logits(const at::Tensor& logits, const SamplingOptions& options) {
  at::Tensor result = logits.to(at::kFloat) / options.temperature;
  if (options.top_k > 0 && options.top_k < result.size(-1)) {
    const at::Tensor least = std::get<0>(result.topk(options.top_k, -1)).narrow(-1, options.top_k - 1, 1);
    result = result.masked_fill(result < least, -INFINITY);
  }
  if (options.top_p < 1.0) {
    // Ascending, so that what is removed is what all before it and itself have of the probability together.
    const auto [sorted, order] = result.sort(-1, /*descending=*/false);
    at::Tensor removed = at::softmax(sorted, -1).cumsum(-1) <= 1.0 - options.top_p;
    removed.narrow(-1, removed.size(-1) - 1, 1).fill_(false);
    result = result.masked_fill(removed.scatter(-1, order, removed), -INFINITY);
  }
  if (options.min_p > 0.0) {
    const at::Tensor shares = at::softmax(result, -1);
    const at::Tensor most = std::get<0>(shares.max(-1, /*keepdim=*/true));
    result = result.masked_fill(shares < options.min_p * most, -INFINITY);
  }
  return result;
}

at::Tensor sample(const at::Tensor& logits, const SamplingOptions& options, at::Generator& generator) {
  if (options.greedy()) return logits.argmax(-1);
  // On the CPU, so that a seed means the same on every device.
  const at::Tensor shares = at::softmax(filtered_logits(logits, options).cpu(), -1);
  return shares.multinomial(1, /*replacement=*/false, generator).squeeze(-1).to(logits.device());
}

}  // namespace viaduct::infer
