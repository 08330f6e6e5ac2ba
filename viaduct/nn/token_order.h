// TokenOrder: tokens put in the order of their experts, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace viaduct::nn {

/// Rows, sorted by expert and within an expert by token: one for each of a token's k choices that somebody here
/// computes. A choice's slot is token * k + index of the choice.
struct TokenOrder {
  int64_t tokens = 0;
  int64_t choices = 0;       // k
  bool padded = false;       // do rows follow an expert's that are nobody's?
  at::Tensor slots_n;        // int64: the slot of each row; tokens * k for a row that is nobody's
  at::Tensor rows_of_slots;  // [tokens * k] int64: the other way; only where every slot has a row
  std::vector<int64_t> rows_per_expert;

  /// Does every slot have a row?
  bool complete() const { return rows_of_slots.defined(); }
};

/// The order of `experts_tk` (int64) for the experts first_expert ... first_expert + num_experts - 1. Choices of
/// other experts, and those that `kept_tk` (bool; undefined: all) leaves out, have no row. With `padded_rows` every
/// expert has so many, at least as many as there are for it.
TokenOrder order_by_expert(const at::Tensor& experts_tk, const at::Tensor& kept_tk, int64_t first_expert,
                           int64_t num_experts, std::optional<int64_t> padded_rows = std::nullopt);

/// tokens_th -> rows_nh. Differentiable; the gradient of a token is the sum over its choices in their order, the
/// same at each run.
at::Tensor rows_of_tokens(const at::Tensor& tokens_th, const TokenOrder& order);
/// rows_nh -> slots [tokens, k, h], zero where a slot has no row. Differentiable.
at::Tensor slots_of_rows(const at::Tensor& rows_nh, const TokenOrder& order);

}  // namespace viaduct::nn
