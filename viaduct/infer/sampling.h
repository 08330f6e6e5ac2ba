// Sampling: which token follows, given the logits. The filters are transformers' logits processors, in its order.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace viaduct::infer {

/// temperature, then top_k, top_p, min_p; with temperature 0 (greedy) the others do not matter.
struct SamplingOptions {
  double temperature = 0.0;      // 0: the likeliest token
  int64_t top_k = 0;             // of the likeliest tokens; 0: all
  double top_p = 1.0;            // the fewest likeliest tokens that have this probability together
  double min_p = 0.0;            // tokens with at least this share of the likeliest one's probability
  std::optional<uint64_t> seed;  // none: another each time

  /// UserError naming the option that is out of its range.
  void validate() const;
  bool greedy() const { return temperature == 0.0; }
};

/// The logits [b, v] (float32) divided by the temperature, -inf where a filter removes the token. At least one
/// stays.
at::Tensor filtered_logits(const at::Tensor& logits, const SamplingOptions& options);

/// The next token of each row of `logits` [b, v]: [b] int64. Greedy: the first of the largest.
at::Tensor sample(const at::Tensor& logits, const SamplingOptions& options, at::Generator& generator);

}  // namespace viaduct::infer
