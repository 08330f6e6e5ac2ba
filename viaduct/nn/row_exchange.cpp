#include "viaduct/nn/row_exchange.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "viaduct/parallel/mappings.h"

namespace viaduct::nn {

namespace {

bool all_equal(const std::vector<int64_t>& counts) {
  return std::all_of(counts.begin(), counts.end(), [&](int64_t count) { return count == counts[0]; });
}

// This rank's count once for each rank.
std::vector<int64_t> own_count(const parallel::Group& group, const std::vector<int64_t>& counts) {
  return std::vector<int64_t>(counts.size(), counts[static_cast<size_t>(group.rank())]);
}

}  // namespace

std::vector<int64_t> gather_counts(const std::vector<int64_t>& counts, const parallel::Group& group,
                                   c10::Device device) {
  if (group.alone()) return counts;
  const at::Tensor own = at::tensor(counts, at::TensorOptions().dtype(at::kLong)).to(device);
  const at::Tensor all = group.all_gather(own, 0).to(at::kCPU);
  const int64_t* data = all.const_data_ptr<int64_t>();
  return {data, data + all.numel()};
}

at::Tensor gather_rows(const at::Tensor& rows, const parallel::Group& group, const std::vector<int64_t>& counts) {
  if (group.alone()) return rows;
  if (all_equal(counts)) return parallel::gather_and_reduce_grad(rows, group, 0);
  std::vector<int64_t> sizes = rows.sizes().vec();
  sizes.insert(sizes.begin(), group.size());
  const at::Tensor for_each = rows.unsqueeze(0).expand(sizes).flatten(0, 1);
  return parallel::all_to_all(for_each, group, counts, own_count(group, counts));
}

at::Tensor reduce_scatter_rows(const at::Tensor& rows, const parallel::Group& group,
                               const std::vector<int64_t>& counts) {
  if (group.alone()) return rows;
  if (all_equal(counts)) return parallel::reduce_scatter_to_region(rows, group, 0);
  const at::Tensor of_each = parallel::all_to_all(rows, group, own_count(group, counts), counts);
  std::vector<int64_t> sizes = rows.sizes().vec();
  sizes[0] = counts[static_cast<size_t>(group.rank())];
  sizes.insert(sizes.begin(), group.size());
  return of_each.view(sizes).sum(0);
}

}  // namespace viaduct::nn
