#include "viaduct/optim/parameter_buffer.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <numeric>

#include "viaduct/core/error.h"

namespace viaduct::optim {

namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

// Autograd calls it with a parameter whose gradient has just been made.
class ParameterBuffer::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(ParameterBuffer& buffer, size_t index) : buffer_(buffer), index_(index) {}

  void operator()(const torch::autograd::Variable& parameter) override {
    const at::NoGradGuard no_grad;
    at::Tensor& gradient = parameter.mutable_grad();
    buffer_.take(index_, gradient);
    gradient.reset();
  }

 private:
  ParameterBuffer& buffer_;
  size_t index_;
};

ParameterBuffer::ParameterBuffer(std::vector<at::Tensor> parameters, const parallel::Group& replicas,
                                 const BufferOptions& options)
    : parameters_(std::move(parameters)),
      replicas_(replicas),
      options_(options),
      offsets_(parameters_.size()),
      bucket_of_(parameters_.size()),
      arrived_(parameters_.size()) {
  VIADUCT_CHECK(!parameters_.empty(), "a buffer without parameters");
  lay_out();
  find_owned();
  const at::NoGradGuard no_grad;
  const int64_t size = buckets_.back().begin + buckets_.back().size;
  all_gradients_ = at::zeros({size}, parameters_[0].options().dtype(options_.gradients).requires_grad(false));
  if (options_.sharded) all_parameters_ = at::zeros({size}, parameters_[0].options().requires_grad(false));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& parameter = parameters_[i];
    VIADUCT_CHECK(parameter.is_leaf() && parameter.requires_grad() && parameter.is_contiguous() &&
                      parameter.scalar_type() == parameters_[0].scalar_type(),
                  "parameter {} of a buffer: a contiguous leaf of the type {} that has gradients", i,
                  c10::toString(parameters_[0].scalar_type()));
    if (options_.sharded) {
      const at::Tensor place = all_parameters_.narrow(0, offsets_[i], parameter.numel()).view(parameter.sizes());
      place.copy_(parameter);
      parameter.set_data(place);
    }
    gradients_.push_back(all_gradients_.narrow(0, offsets_[i], parameter.numel()).view(parameter.sizes()));
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<Hook>(*this, i));
  }
}

ParameterBuffer::~ParameterBuffer() {
  for (const at::Tensor& parameter : parameters_)
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
}

void ParameterBuffer::lay_out() {
  const int64_t unit = options_.sharded ? std::lcm<int64_t>(replicas_.size(), 128) : 1;
  int64_t begin = 0, end = 0;
  const auto close = [&] {
    end = round_up(end, unit);
    buckets_.push_back({begin, end - begin});
    begin = end;
  };
  const auto alone = [&](size_t i) { return i < options_.own_bucket.size() && options_.own_bucket[i]; };
  for (size_t i = parameters_.size(); i-- > 0;) {
    if (alone(i) && end > begin) close();
    if (options_.sharded) end = round_up(end, 64);
    offsets_[i] = end;
    bucket_of_[i] = buckets_.size();
    end += parameters_[i].numel();
    if (alone(i) || (options_.bucket_size > 0 && end - begin >= options_.bucket_size)) close();
  }
  if (end > begin) close();
}

void ParameterBuffer::find_owned() {
  for (const Bucket& bucket : buckets_) {
    const int64_t part = options_.sharded ? bucket.size / replicas_.size() : bucket.size;
    const int64_t from = bucket.begin + (options_.sharded ? part * replicas_.rank() : 0), to = from + part;
    for (size_t i = parameters_.size(); i-- > 0;) {
      const int64_t begin = std::max(from, offsets_[i]), end = std::min(to, offsets_[i] + parameters_[i].numel());
      if (begin < end) owned_.push_back({i, begin - offsets_[i], end - begin, begin});
    }
  }
}

size_t ParameterBuffer::first_parameter(size_t bucket) const {
  const auto found = std::find(bucket_of_.begin(), bucket_of_.end(), bucket);
  VIADUCT_CHECK(found != bucket_of_.end(), "bucket {} of {} without parameters", bucket, buckets_.size());
  return static_cast<size_t>(found - bucket_of_.begin());
}

void ParameterBuffer::expect_gradients(int64_t passes, std::function<void()> complete) {
  complete_ = std::move(complete);
  passes_ = passes;
  std::fill(arrived_.begin(), arrived_.end(), 0);
  for (Bucket& bucket : buckets_) bucket.missing = 0, bucket.reduced = false;
  for (const size_t bucket : bucket_of_) ++buckets_[bucket].missing;
}

void ParameterBuffer::take(size_t parameter, const at::Tensor& gradient) {
  Bucket& bucket = buckets_[bucket_of_[parameter]];
  VIADUCT_USER_CHECK(
      !bucket.reduced,
      "a parameter of shape [{}] gets a gradient after those of its bucket were summed over the "
      "ranks. Backward comes between begin_iteration and reduce_gradients, num_microbatches times; a "
      "parameter that gets several gradients a micro-batch needs ddp.overlap_grad_reduce=false",
      fmt::join(parameters_[parameter].sizes(), " x "));
  // The first one says what the main gradient is: no memory is set to zero only to be added to.
  arrived_[parameter] == 0 ? gradients_[parameter].copy_(gradient) : gradients_[parameter].add_(gradient);
  if (++arrived_[parameter] == passes_ && --bucket.missing == 0 && complete_) complete_();
}

at::Tensor ParameterBuffer::own_part(const at::Tensor& all, const Bucket& bucket) const {
  const int64_t part = bucket.size / replicas_.size();
  return all.narrow(0, bucket.begin + part * replicas_.rank(), part);
}

void ParameterBuffer::start_reduction(size_t bucket, double divisor) {
  Bucket& part = buckets_[bucket];
  VIADUCT_CHECK(!part.reduced && !part.transfer, "bucket {} is reduced twice", bucket);
  part.reduced = true;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (bucket_of_[i] == bucket && arrived_[i] == 0) gradients_[i].zero_();
  const at::Tensor gradients = all_gradients_.narrow(0, part.begin, part.size);
  if (divisor != 1) gradients.div_(divisor);
  if (replicas_.alone()) return;
  part.transfer = options_.sharded ? replicas_.start_reduce_scatter(own_part(all_gradients_, part), gradients)
                                   : replicas_.start_all_reduce(gradients);
}

void ParameterBuffer::finish_reduction(size_t bucket) {
  Bucket& part = buckets_[bucket];
  VIADUCT_CHECK(part.reduced, "bucket {} is not being reduced", bucket);
  if (const auto transfer = std::move(part.transfer)) transfer->wait();
}

at::Tensor ParameterBuffer::gradient_of(const OwnedRange& range) const {
  return all_gradients_.narrow(0, range.offset, range.size);
}

at::Tensor ParameterBuffer::parameter_of(const OwnedRange& range) const {
  return parameters_[range.parameter].detach().view(-1).narrow(0, range.begin, range.size);
}

void ParameterBuffer::start_gather(size_t bucket) {
  Bucket& part = buckets_[bucket];
  VIADUCT_CHECK(!part.transfer, "bucket {} is being exchanged already", bucket);
  part.transfer =
      replicas_.start_all_gather(all_parameters_.narrow(0, part.begin, part.size), own_part(all_parameters_, part));
}

bool ParameterBuffer::finish_gather(size_t bucket) {
  const auto transfer = std::move(buckets_[bucket].transfer);
  if (transfer) transfer->wait();
  return transfer != nullptr;
}

}  // namespace viaduct::optim
