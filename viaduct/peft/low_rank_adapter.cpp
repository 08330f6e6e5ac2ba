#include "viaduct/peft/low_rank_adapter.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"
#include "viaduct/layout/plan.h"
#include "viaduct/parallel/mappings.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::peft {

Factor::Factor(const Shape& shape, int64_t experts, nn::ContextPtr context)
    : context_(std::move(context)), per_expert_(experts > 0) {
  const auto make = [&](const std::string& name) {
    weights_.push_back(register_parameter(name, at::empty(torchx::sizes_of(shape), context_->options())));
  };
  if (!per_expert_) make("weight");
  for (int64_t i = 0; i < experts; ++i) make(fmt::format("weight{}", i));
}

at::Tensor Factor::forward(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const {
  if (per_expert_) return context_->kernels->grouped_linear(x, rows_per_expert, weights_, {});
  return context_->kernels->linear(x, weights_[0], at::Tensor());
}

namespace {

// Beside columns the second matrix has the linear's own rows, gate and up each for itself.
layout::Split split_of_out(const layout::Split& linear) {
  return linear.axis == 0 ? linear : layout::Split::along(0);
}

Shape local_shape(const Shape& whole, const layout::Split& split, const parallel::Group& ranks) {
  return layout::shard_shape(split, whole, ranks.size());
}

int64_t last_axis(const at::Tensor& x) { return x.dim() - 1; }

}  // namespace

LowRankAdapter::LowRankAdapter(const LowRankShape& shape, const PeftOptions& options, nn::ContextPtr context)
    : context_(std::move(context)),
      shape_(shape),
      in_split_(layout::Split::along(shape.linear.axis == 1 ? 1 : 0)),
      out_split_(split_of_out(shape.linear)),
      scaling_(options.scaling(shape.rank)),
      dropout_(options.dropout),
      dropout_position_(options.dropout_position) {
  const int64_t parts = ranks().size();
  VIADUCT_USER_CHECK(
      shape.linear.axis == 1 || shape.rank % parts == 0,
      "peft.dim gives a layer the rank {}, which cannot be divided among {} tensor-parallel ranks: set "
      "it to a multiple of them",
      shape.rank, parts);
  linear_in_ = register_module(
      "linear_in",
      std::make_shared<Factor>(local_shape({shape.rank, shape.in}, in_split_, ranks()), shape.experts, context_));
  linear_out_ = register_module(
      "linear_out",
      std::make_shared<Factor>(local_shape({shape.out, shape.rank}, out_split_, ranks()), shape.experts, context_));
}

const parallel::Group& LowRankAdapter::ranks() const {
  return shape_.expert ? context_->mesh->etp : context_->mesh->tp;
}

at::Tensor LowRankAdapter::dropped(const at::Tensor& x, DropoutPosition position) const {
  if (dropout_ == 0.0 || position != dropout_position_) return x;
  return at::dropout(x, dropout_, is_training());
}

// Every rank needs all of the short vectors, and has a part of their gradient.
at::Tensor LowRankAdapter::beside_columns(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const {
  const at::Tensor part = linear_in_->forward(x, rows_per_expert);
  return linear_out_->forward(parallel::gather_and_reduce_grad(part, ranks(), last_axis(part)), rows_per_expert);
}

at::Tensor LowRankAdapter::beside_rows(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const {
  const parallel::Group& group = ranks();
  const at::Tensor sum = parallel::reduce_from_region(linear_in_->forward(x, rows_per_expert), group);
  const at::Tensor part = linear_out_->forward(parallel::copy_to_region(sum, group), rows_per_expert);
  if (shape_.expert) {
    // The linear's results are summed later: a rank's columns among zeros.
    const int64_t width = part.size(-1);
    return group.alone()
               ? part
               : at::constant_pad_nd(part, {group.rank() * width, (group.size() - 1 - group.rank()) * width});
  }
  const at::Tensor whole = parallel::gather_from_region(part, group, last_axis(part));
  return context_->sequence_parallel() ? parallel::scatter_to_region(whole, group, 0) : whole;
}

// The linear is whole on every rank, the matrices are not; under sequence parallelism each has other positions.
at::Tensor LowRankAdapter::beside_whole(const at::Tensor& x) const {
  const parallel::Group& group = ranks();
  const bool cut = context_->sequence_parallel();
  const at::Tensor all = cut ? parallel::gather_and_reduce_grad(x, group, 0) : parallel::copy_to_region(x, group);
  const at::Tensor part = beside_columns(all, {});
  const at::Tensor whole = parallel::gather_from_region(part, group, last_axis(part));
  return cut ? parallel::scatter_to_region(whole, group, 0) : whole;
}

at::Tensor LowRankAdapter::forward(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const {
  const at::Tensor input = dropped(x, DropoutPosition::kPre);
  const at::Tensor output = shape_.linear.is_replicated() ? beside_whole(input)
                            : shape_.linear.axis == 1     ? beside_rows(input, rows_per_expert)
                                                          : beside_columns(input, rows_per_expert);
  return dropped(output, DropoutPosition::kPost) * scaling_;
}

std::vector<nn::AdapterParameter> LowRankAdapter::adapter_parameters() const {
  std::vector<nn::AdapterParameter> result;
  const auto add = [&](const char* factor, const Factor& held, const Shape& shape, const layout::Split& split) {
    for (size_t i = 0; i < held.weights().size(); ++i) {
      nn::AdapterParameter parameter;
      parameter.name = fmt::format("{}.weight", factor);
      if (shape_.experts > 0) parameter.name += std::to_string(i);
      parameter.tensor = held.weights()[i];
      parameter.shape = shape;
      parameter.split = split;
      parameter.expert = shape_.expert;
      parameter.local_expert = static_cast<int>(i);
      parameter.shared_by_experts = shape_.expert && shape_.experts == 0;
      result.push_back(std::move(parameter));
    }
  };
  add("linear_in", *linear_in_, {shape_.rank, shape_.in}, in_split_);
  add("linear_out", *linear_out_, {shape_.out, shape_.rank}, out_split_);
  return result;
}

}  // namespace viaduct::peft
