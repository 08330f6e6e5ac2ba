#include "viaduct/parallel/group.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

Group::Group(std::string name, std::vector<int> ranks, int rank, std::shared_ptr<Communicator> communicator)
    : name_(std::move(name)), ranks_(std::move(ranks)), rank_(rank), communicator_(std::move(communicator)) {
  VIADUCT_CHECK(rank_ >= 0 && rank_ < size(), "rank {} of {} in group \"{}\"", rank_, size(), name_);
  VIADUCT_CHECK(alone() || communicator_, "group \"{}\" of {} ranks has no communicator", name_, size());
}

Communicator& Group::communicator() const {
  VIADUCT_CHECK(communicator_, "group \"{}\" is alone", name_);
  return *communicator_;
}

void Group::all_reduce(at::Tensor& tensor, Reduce reduce) const {
  if (!alone()) communicator().all_reduce(tensor, reduce);
}

at::Tensor Group::all_gather(const at::Tensor& tensor, int64_t dim) const {
  if (alone()) return tensor;
  const at::Tensor rows = dim == 0 ? tensor.contiguous() : tensor.movedim(dim, 0).contiguous();
  std::vector<int64_t> sizes = rows.sizes().vec();
  sizes[0] *= size();
  at::Tensor result = at::empty(sizes, rows.options());
  communicator().all_gather(result, rows);
  return dim == 0 ? result : result.movedim(0, dim).contiguous();
}

at::Tensor Group::reduce_scatter(const at::Tensor& tensor, int64_t dim) const {
  if (alone()) return tensor;
  const at::Tensor rows = dim == 0 ? tensor.contiguous() : tensor.movedim(dim, 0).contiguous();
  std::vector<int64_t> sizes = rows.sizes().vec();
  VIADUCT_CHECK(sizes[0] % size() == 0, "{} rows among {} ranks", sizes[0], size());
  sizes[0] /= size();
  at::Tensor result = at::empty(sizes, rows.options());
  communicator().reduce_scatter(result, rows);
  return dim == 0 ? result : result.movedim(0, dim).contiguous();
}

at::Tensor Group::all_to_all(const at::Tensor& tensor, const std::vector<int64_t>& output_rows,
                             const std::vector<int64_t>& input_rows) const {
  if (alone()) return tensor;
  std::vector<int64_t> sizes = tensor.sizes().vec();
  sizes[0] = 0;
  for (const int64_t rows : output_rows) sizes[0] += rows;
  at::Tensor result = at::empty(sizes, tensor.options());
  communicator().all_to_all(result, tensor.contiguous(), output_rows, input_rows);
  return result;
}

void Group::broadcast(at::Tensor& tensor, int root) const {
  if (!alone()) communicator().broadcast(tensor, root);
}

void Group::send(const at::Tensor& tensor, int to, int tag) const {
  communicator().send(tensor.contiguous(), to, tag);
}

void Group::receive(at::Tensor& tensor, int from, int tag) const { communicator().receive(tensor, from, tag); }

void Group::barrier() const {
  if (!alone()) communicator().barrier();
}

}  // namespace viaduct::parallel
