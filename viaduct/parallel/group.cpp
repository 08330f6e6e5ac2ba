#include "viaduct/parallel/group.h"

#include <ATen/ATen.h>

#include <numeric>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

namespace {

// The tensor with axis `dim` first, which is the axis that communicators cut.
at::Tensor rows_of(const at::Tensor& tensor, int64_t dim) {
  return dim == 0 ? tensor.contiguous() : tensor.movedim(dim, 0).contiguous();
}

at::Tensor back(const at::Tensor& rows, int64_t dim) { return dim == 0 ? rows : rows.movedim(0, dim).contiguous(); }

}  // namespace

Group::Group() : Group("this process", {0}, 0, nullptr) {}

Group::Group(std::string name, std::vector<int> ranks, int rank, std::shared_ptr<Communicator> communicator)
    : state_(
          std::make_shared<const State>(State{std::move(name), std::move(ranks), rank, std::move(communicator)})) {
  VIADUCT_CHECK(this->rank() >= 0 && this->rank() < size(), "rank {} of {} in group \"{}\"", this->rank(), size(),
                this->name());
  VIADUCT_CHECK(alone() || state_->communicator, "group \"{}\" of {} ranks has no communicator", this->name(),
                size());
}

Communicator& Group::communicator() const {
  VIADUCT_CHECK(state_->communicator, "group \"{}\" is alone", name());
  return *state_->communicator;
}

int Group::peer(int member) const {
  VIADUCT_CHECK(member >= 0 && member < size() && member != rank(),
                "member {} as the other end for member {} of {} in "
                "group \"{}\"",
                member, rank(), size(), name());
  return member;
}

void Group::all_reduce(at::Tensor& tensor, Reduce reduce) const {
  if (alone()) return;
  const at::NoGradGuard no_grad;
  if (tensor.is_contiguous()) {
    communicator().start_all_reduce(tensor, reduce)->wait();
    return;
  }
  const at::Tensor copy = tensor.contiguous();
  communicator().start_all_reduce(copy, reduce)->wait();
  tensor.copy_(copy);
}

at::Tensor Group::all_gather(const at::Tensor& tensor, int64_t dim) const {
  if (alone()) return tensor;
  const at::NoGradGuard no_grad;
  const at::Tensor rows = rows_of(tensor, dim);
  std::vector<int64_t> sizes = rows.sizes().vec();
  sizes[0] *= size();
  const at::Tensor result = at::empty(sizes, rows.options());
  communicator().start_all_gather(result, rows)->wait();
  return back(result, dim);
}

at::Tensor Group::reduce_scatter(const at::Tensor& tensor, int64_t dim) const {
  if (alone()) return tensor;
  const at::NoGradGuard no_grad;
  const at::Tensor rows = rows_of(tensor, dim);
  std::vector<int64_t> sizes = rows.sizes().vec();
  VIADUCT_CHECK(sizes[0] % size() == 0, "axis {} of size {} among the {} ranks of group \"{}\"", dim, sizes[0],
                size(), name());
  sizes[0] /= size();
  const at::Tensor result = at::empty(sizes, rows.options());
  communicator().start_reduce_scatter(result, rows)->wait();
  return back(result, dim);
}

std::unique_ptr<Transfer> Group::start_all_reduce(const at::Tensor& tensor, Reduce reduce) const {
  return communicator().start_all_reduce(tensor, reduce);
}

std::unique_ptr<Transfer> Group::start_all_gather(const at::Tensor& result, const at::Tensor& tensor) const {
  return communicator().start_all_gather(result, tensor);
}

std::unique_ptr<Transfer> Group::start_reduce_scatter(const at::Tensor& result, const at::Tensor& tensor) const {
  return communicator().start_reduce_scatter(result, tensor);
}

at::Tensor Group::all_to_all(const at::Tensor& tensor, const std::vector<int64_t>& output_rows,
                             const std::vector<int64_t>& input_rows) const {
  VIADUCT_CHECK(output_rows.size() == state_->ranks.size() && input_rows.size() == state_->ranks.size(),
                "rows for {} and from {} ranks in group \"{}\" of {}", input_rows.size(), output_rows.size(),
                name(), size());
  const int64_t sent = std::accumulate(input_rows.begin(), input_rows.end(), int64_t{0});
  VIADUCT_CHECK(tensor.dim() > 0 && tensor.size(0) == sent, "{} rows to send, {} there, in group \"{}\"", sent,
                tensor.dim() > 0 ? tensor.size(0) : 0, name());
  if (alone()) return tensor;
  const at::NoGradGuard no_grad;
  std::vector<int64_t> sizes = tensor.sizes().vec();
  sizes[0] = std::accumulate(output_rows.begin(), output_rows.end(), int64_t{0});
  at::Tensor result = at::empty(sizes, tensor.options());
  communicator().all_to_all(result, tensor.contiguous(), output_rows, input_rows);
  return result;
}

void Group::broadcast(at::Tensor& tensor, int root) const {
  VIADUCT_CHECK(root >= 0 && root < size(), "root {} of {} in group \"{}\"", root, size(), name());
  if (alone()) return;
  const at::NoGradGuard no_grad;
  if (tensor.is_contiguous()) {
    communicator().broadcast(tensor, root);
    return;
  }
  at::Tensor copy = tensor.contiguous();
  communicator().broadcast(copy, root);
  tensor.copy_(copy);
}

void Group::send(const at::Tensor& tensor, int to, int tag) const {
  communicator().send(tensor.contiguous(), peer(to), tag);
}

std::unique_ptr<Transfer> Group::start_send(const at::Tensor& tensor, int to, int tag) const {
  return communicator().start_send(tensor.contiguous(), peer(to), tag);
}

void Group::receive(at::Tensor& tensor, int from, int tag) const {
  const at::NoGradGuard no_grad;
  if (tensor.is_contiguous()) {
    communicator().receive(tensor, peer(from), tag);
    return;
  }
  at::Tensor copy = at::empty(tensor.sizes(), tensor.options());
  communicator().receive(copy, peer(from), tag);
  tensor.copy_(copy);
}

void Group::connect(int from, int to, int tag) const {
  if (rank() == from || rank() == to) communicator().connect(from, to, tag);
}

void Group::barrier() const {
  if (!alone()) communicator().barrier();
}

}  // namespace viaduct::parallel
