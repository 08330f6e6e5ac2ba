#include "viaduct/optim/parameter_buffer.h"

#include <ATen/ATen.h>
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
  explicit Hook(at::Tensor main) : main_(std::move(main)) {}

  void operator()(const torch::autograd::Variable& parameter) override {
    const at::NoGradGuard no_grad;
    at::Tensor& gradient = parameter.mutable_grad();
    main_.add_(gradient);
    gradient.reset();
  }

 private:
  at::Tensor main_;
};

ParameterBuffer::ParameterBuffer(std::vector<at::Tensor> parameters, const parallel::Group& replicas,
                                 const BufferOptions& options)
    : parameters_(std::move(parameters)), replicas_(replicas), options_(options), offsets_(parameters_.size()) {
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
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<Hook>(gradients_.back()));
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

void ParameterBuffer::zero_gradients() { all_gradients_.zero_(); }

void ParameterBuffer::reduce_gradients(double divisor) {
  if (divisor != 1) all_gradients_.div_(divisor);
  if (replicas_.alone()) return;
  for (const Bucket& bucket : buckets_) {
    at::Tensor gradients = all_gradients_.narrow(0, bucket.begin, bucket.size);
    if (!options_.sharded) {
      replicas_.all_reduce(gradients);
      continue;
    }
    const int64_t part = bucket.size / replicas_.size();
    gradients.narrow(0, part * replicas_.rank(), part).copy_(replicas_.reduce_scatter(gradients, 0));
  }
}

at::Tensor ParameterBuffer::gradient_of(const OwnedRange& range) const {
  return all_gradients_.narrow(0, range.offset, range.size);
}

at::Tensor ParameterBuffer::parameter_of(const OwnedRange& range) const {
  return parameters_[range.parameter].detach().view(-1).narrow(0, range.begin, range.size);
}

void ParameterBuffer::gather_parameters() {
  if (!options_.sharded || replicas_.alone()) return;
  for (const Bucket& bucket : buckets_) {
    const int64_t part = bucket.size / replicas_.size();
    at::Tensor parameters = all_parameters_.narrow(0, bucket.begin, bucket.size);
    parameters.copy_(replicas_.all_gather(parameters.narrow(0, part * replicas_.rank(), part), 0));
  }
}

}  // namespace viaduct::optim
