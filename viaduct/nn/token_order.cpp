#include "viaduct/nn/token_order.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "viaduct/core/error.h"

namespace viaduct::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// A zero row behind the others, which rows that are padding take for their own.
at::Tensor with_zero_row(const at::Tensor& rows) { return at::constant_pad_nd(rows, {0, 0, 0, 1}); }

at::Tensor gathered(const at::Tensor& tokens_th, const TokenOrder& order) {
  return (order.padded ? with_zero_row(tokens_th) : tokens_th)
      .index_select(0, at::floor_divide(order.slots_n, order.choices));
}

at::Tensor spread(const at::Tensor& rows_nh, const TokenOrder& order) {
  const int64_t slots = order.tokens * order.choices, width = rows_nh.size(1);
  at::Tensor result;
  if (order.complete()) {
    result = rows_nh.index_select(0, order.rows_of_slots);
  } else {
    result = at::zeros({slots + 1, width}, rows_nh.options()).index_copy_(0, order.slots_n, rows_nh);
    result = result.narrow(0, 0, slots);
  }
  return result.view({order.tokens, order.choices, width});
}

// Both keep the order for their backward pass.
void save(AutogradContext* context, const TokenOrder& order) {
  context->save_for_backward({order.slots_n, order.rows_of_slots});
  context->saved_data["tokens"] = order.tokens;
  context->saved_data["choices"] = order.choices;
  context->saved_data["padded"] = order.padded;
}

TokenOrder saved(const AutogradContext* context) {
  const variable_list tensors = context->get_saved_variables();
  TokenOrder order;
  order.tokens = context->saved_data.at("tokens").toInt();
  order.choices = context->saved_data.at("choices").toInt();
  order.padded = context->saved_data.at("padded").toBool();
  order.slots_n = tensors[0];
  order.rows_of_slots = tensors[1];
  return order;
}

struct Permute : Function<Permute> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& tokens_th, const TokenOrder& order) {
    save(context, order);
    return gathered(tokens_th, order);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {spread(gradients[0], saved(context)).sum(1), at::Tensor()};
  }
};

struct Unpermute : Function<Unpermute> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows_nh, const TokenOrder& order) {
    save(context, order);
    return spread(rows_nh, order);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const TokenOrder order = saved(context);
    const at::Tensor slots = gradients[0].flatten(0, 1);
    return {(order.padded ? with_zero_row(slots) : slots).index_select(0, order.slots_n), at::Tensor()};
  }
};

// Slots in the order of experts, where each expert has `rows` of which counts[i] are filled.
at::Tensor padded(const at::Tensor& slots_n, const std::vector<int64_t>& counts, int64_t rows, int64_t padding) {
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t count : counts) {
    VIADUCT_CHECK_LE(count, rows, "rows of a padded expert");
    parts.push_back(at::constant_pad_nd(slots_n.narrow(0, begin, count), {0, rows - count}, padding));
    begin += count;
  }
  return at::cat(parts);
}

}  // namespace

TokenOrder order_by_expert(const at::Tensor& experts_tk, const at::Tensor& kept_tk, int64_t first_expert,
                           int64_t num_experts, std::optional<int64_t> padded_rows) {
  at::Tensor experts = experts_tk.reshape(-1) - first_expert;
  // What has no row here goes behind the last expert.
  at::Tensor elsewhere = (experts < 0).logical_or(experts >= num_experts);
  if (kept_tk.defined()) elsewhere = elsewhere.logical_or(kept_tk.reshape(-1).logical_not());
  experts = experts.masked_fill(elsewhere, num_experts);
  const at::Tensor counts = at::bincount(experts, {}, num_experts + 1).to(at::kCPU);
  const int64_t* count = counts.const_data_ptr<int64_t>();

  TokenOrder order;
  order.tokens = experts_tk.size(0);
  order.choices = experts_tk.size(1);
  order.rows_per_expert.assign(count, count + num_experts);
  const int64_t slots = order.tokens * order.choices;
  order.slots_n = experts.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  if (padded_rows) {
    order.slots_n = padded(order.slots_n, order.rows_per_expert, *padded_rows, slots);
    order.rows_per_expert.assign(order.rows_per_expert.size(), *padded_rows);
    order.padded = true;
  } else if (const int64_t without_row = count[num_experts]; without_row > 0) {
    order.slots_n = order.slots_n.narrow(0, 0, slots - without_row);
  } else {
    order.rows_of_slots =
        at::empty_like(order.slots_n).index_copy_(0, order.slots_n, at::arange(slots, order.slots_n.options()));
  }
  return order;
}

at::Tensor rows_of_tokens(const at::Tensor& tokens_th, const TokenOrder& order) {
  VIADUCT_CHECK_EQ(tokens_th.size(0), order.tokens, "tokens");
  return Permute::apply(tokens_th, order);
}

at::Tensor slots_of_rows(const at::Tensor& rows_nh, const TokenOrder& order) {
  VIADUCT_CHECK_EQ(rows_nh.size(0), order.slots_n.size(0), "rows");
  return Unpermute::apply(rows_nh, order);
}

}  // namespace viaduct::nn
