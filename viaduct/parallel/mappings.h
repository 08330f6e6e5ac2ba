// Collectives with autograd: what goes forward and what the gradient does, one function each. On a group that is
// alone all return their input. Names after Megatron Core's tensor_parallel mappings.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "viaduct/parallel/group.h"

namespace viaduct::parallel {

/// Forward the input, backward the sum of the ranks' gradients: before a column-parallel linear.
at::Tensor copy_to_region(const at::Tensor& input, const Group& group);
/// Forward the sum, backward the gradient: after a row-parallel linear.
at::Tensor reduce_from_region(const at::Tensor& input, const Group& group);
/// Forward this rank's part along `dim`, backward all parts gathered. `size` divides the axis.
at::Tensor scatter_to_region(const at::Tensor& input, const Group& group, int64_t dim);
/// Forward all parts gathered along `dim`, backward this rank's part of the gradient (which is the same on all).
at::Tensor gather_from_region(const at::Tensor& input, const Group& group, int64_t dim);
/// Forward all parts gathered along `dim`, backward the ranks' gradients summed and scattered: before a
/// column-parallel linear under sequence parallelism.
at::Tensor gather_and_reduce_grad(const at::Tensor& input, const Group& group, int64_t dim);
/// Forward the sum scattered along `dim`, backward the gradients gathered: after a row-parallel linear under
/// sequence parallelism.
at::Tensor reduce_scatter_to_region(const at::Tensor& input, const Group& group, int64_t dim);
/// Rows to and from each rank (Communicator::all_to_all); backward the same with the counts exchanged.
at::Tensor all_to_all(const at::Tensor& input, const Group& group, const std::vector<int64_t>& output_rows,
                      const std::vector<int64_t>& input_rows);

}  // namespace viaduct::parallel
