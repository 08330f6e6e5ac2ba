#include "viaduct/parallel/mappings.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// What a rank does with a tensor in one direction.
enum class Move { kNothing, kReduce, kSplit, kGather, kReduceScatter };

at::Tensor split(const at::Tensor& tensor, const Group& group, int64_t dim) {
  const int64_t size = tensor.size(dim);
  VIADUCT_CHECK(size % group.size() == 0, "axis {} of size {} among {} ranks", dim, size, group.size());
  const int64_t part = size / group.size();
  // A copy even where the part is contiguous: a view would be bound to the input's in-place changes.
  return tensor.narrow(dim, group.rank() * part, part).clone(at::MemoryFormat::Contiguous);
}

at::Tensor moved(const at::Tensor& tensor, const Group& group, Move move, int64_t dim) {
  switch (move) {
    case Move::kNothing: return tensor;
    case Move::kReduce: {
      at::Tensor sum = tensor.clone(at::MemoryFormat::Contiguous);
      group.all_reduce(sum);
      return sum;
    }
    case Move::kSplit: return split(tensor, group, dim);
    case Move::kGather: return group.all_gather(tensor, dim);
    case Move::kReduceScatter: return group.reduce_scatter(tensor, dim);
  }
  throw InternalError("a Move that is none");
}

// The group that a backward needs: it may run after the caller's Group is gone.
struct KeptGroup : torch::CustomClassHolder {
  explicit KeptGroup(Group kept) : group(std::move(kept)) {}
  Group group;
};

void keep_group(AutogradContext* context, const Group& group) {
  context->saved_data["group"] = at::IValue::make_capsule(c10::make_intrusive<KeptGroup>(group));
}

Group kept_group(AutogradContext* context) {
  return static_cast<const KeptGroup&>(*context->saved_data["group"].toCapsule()).group;
}

// What the backward functions return has no history: a second derivative would silently lack their part.
void refuse_second_derivative(const at::Tensor& gradient, const Group& group) {
  VIADUCT_USER_CHECK(
      !(at::GradMode::is_enabled() && gradient.requires_grad()),
      "a second derivative through a collective of group \"{}\": gradients of gradients are not supported "
      "across ranks; call backward without create_graph",
      group.name());
}

struct Mapping : Function<Mapping> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const Group& group, int64_t forward,
                            int64_t backward, int64_t dim) {
    context->saved_data["backward"] = backward;
    context->saved_data["dim"] = dim;
    keep_group(context, group);
    const at::Tensor result = moved(input, group, static_cast<Move>(forward), dim);
    return result.is_same(input) ? input.view_as(input) : result;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Group group = kept_group(context);
    refuse_second_derivative(gradients[0], group);
    const auto move = static_cast<Move>(context->saved_data["backward"].toInt());
    const at::Tensor gradient = moved(gradients[0], group, move, context->saved_data["dim"].toInt());
    return {gradient, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor mapped(const at::Tensor& input, const Group& group, Move forward, Move backward, int64_t dim) {
  if (group.alone()) return input;
  const int64_t axis = c10::maybe_wrap_dim(dim, input.dim());
  return Mapping::apply(input, group, static_cast<int64_t>(forward), static_cast<int64_t>(backward), axis);
}

struct AllToAll : Function<AllToAll> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const Group& group,
                            const std::vector<int64_t>& output_rows, const std::vector<int64_t>& input_rows) {
    keep_group(context, group);
    context->saved_data["output_rows"] = output_rows;
    context->saved_data["input_rows"] = input_rows;
    return group.all_to_all(input, output_rows, input_rows);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Group group = kept_group(context);
    refuse_second_derivative(gradients[0], group);
    const std::vector<int64_t> output_rows = context->saved_data["output_rows"].toIntVector();
    const std::vector<int64_t> input_rows = context->saved_data["input_rows"].toIntVector();
    return {group.all_to_all(gradients[0], input_rows, output_rows), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor copy_to_region(const at::Tensor& input, const Group& group) {
  return mapped(input, group, Move::kNothing, Move::kReduce, 0);
}

at::Tensor reduce_from_region(const at::Tensor& input, const Group& group) {
  return mapped(input, group, Move::kReduce, Move::kNothing, 0);
}

at::Tensor scatter_to_region(const at::Tensor& input, const Group& group, int64_t dim) {
  return mapped(input, group, Move::kSplit, Move::kGather, dim);
}

at::Tensor gather_from_region(const at::Tensor& input, const Group& group, int64_t dim) {
  return mapped(input, group, Move::kGather, Move::kSplit, dim);
}

at::Tensor gather_and_reduce_grad(const at::Tensor& input, const Group& group, int64_t dim) {
  return mapped(input, group, Move::kGather, Move::kReduceScatter, dim);
}

at::Tensor reduce_scatter_to_region(const at::Tensor& input, const Group& group, int64_t dim) {
  return mapped(input, group, Move::kReduceScatter, Move::kGather, dim);
}

at::Tensor all_to_all(const at::Tensor& input, const Group& group, const std::vector<int64_t>& output_rows,
                      const std::vector<int64_t>& input_rows) {
  if (group.alone()) return input;
  return AllToAll::apply(input, group, output_rows, input_rows);
}

}  // namespace viaduct::parallel
