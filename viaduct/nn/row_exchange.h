// Rows gathered from all ranks of a group, and summed back to them, where each rank has its own number of rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "viaduct/parallel/group.h"

namespace viaduct::nn {

/// `counts` of every rank, one behind the other. Outside of autograd.
std::vector<int64_t> gather_counts(const std::vector<int64_t>& counts, const parallel::Group& group,
                                   c10::Device device);

/// Rows [n, ...] of each rank, counts[i] of rank i, one rank's behind the other's. Backward the sum, as below.
at::Tensor gather_rows(const at::Tensor& rows, const parallel::Group& group, const std::vector<int64_t>& counts);
/// The other way: of rows that stand as gather_rows leaves them, each rank gets the sum over all ranks of its own.
at::Tensor reduce_scatter_rows(const at::Tensor& rows, const parallel::Group& group,
                               const std::vector<int64_t>& counts);

}  // namespace viaduct::nn
