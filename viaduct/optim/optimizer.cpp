#include "viaduct/optim/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>

#include "viaduct/core/error.h"
#include "viaduct/nn/gradients.h"

namespace viaduct::optim {

namespace {

// The tensor itself where it is of this type.
at::Tensor in_type(const at::Tensor& tensor, c10::ScalarType type) { return tensor.to(type); }

void write_back(const at::Tensor& from, const at::Tensor& to) {
  if (!from.is_same(to)) to.copy_(from);
}

}  // namespace

Optimizer::Optimizer(const nn::ModelChunks& chunks, nn::ContextPtr context, OptimizerOptions options)
    : chunks_(chunks),
      context_(std::move(context)),
      options_(std::move(options)),
      rule_(make_update_rule(options_.update)),
      parameters_(model_parameters(chunks_, *context_)),
      buffer_of_(parameters_.size()) {
  if (options_.loss_scaling) scaler_.emplace(*options_.loss_scaling);
  // Parameters of one chunk, type and group of replicas share a buffer.
  std::map<std::tuple<int, bool, c10::ScalarType>, std::vector<size_t>> kinds;
  for (size_t i = 0; i < parameters_.size(); ++i)
    kinds[{parameters_[i].chunk, parameters_[i].expert, parameters_[i].tensor.scalar_type()}].push_back(i);
  const parallel::Mesh& mesh = *context_->mesh;
  const at::NoGradGuard no_grad;
  for (const auto& [kind, members] : kinds) {
    std::vector<at::Tensor> tensors;
    BufferOptions buffer_options{options_.main_grads_dtype, options_.bucket_size,
                                 options_.use_distributed_optimizer};
    for (const size_t i : members) {
      buffer_options.own_bucket.push_back(parameters_[i].shared_among_stages);
      buffer_of_[i] = {buffers_.size(), tensors.size()};
      tensors.push_back(parameters_[i].tensor);
    }
    const parallel::Group& replicas = std::get<1>(kind) ? mesh.edp : mesh.dp_cp;
    buffers_.push_back(std::make_unique<ParameterBuffer>(std::move(tensors), replicas, buffer_options));
    const ParameterBuffer& buffer = *buffers_.back();
    for (const OwnedRange& range : buffer.owned()) {
      OptimizerSlice slice{&parameters_[members[range.parameter]], range.begin, range.size, {}, {}};
      const at::Tensor parameter = buffer.parameter_of(range);
      // float32 parameters are their own main parameters.
      slice.main = parameter.scalar_type() == at::kFloat || parameter.scalar_type() == at::kDouble
                       ? parameter
                       : parameter.to(options_.main_params_dtype, /*non_blocking=*/false, /*copy=*/true);
      for (size_t s = 0; s < rule_->state_names().size(); ++s)
        slice.state.push_back(at::zeros(
            {range.size}, parameter.options().dtype(s == 0 ? options_.exp_avg_dtype : options_.exp_avg_sq_dtype)));
      slices_.push_back(std::move(slice));
      places_.push_back({buffers_.size() - 1, range});
    }
  }
}

void Optimizer::zero_gradients() {
  for (const auto& buffer : buffers_) buffer->zero_gradients();
  for (const ModelParameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
}

void Optimizer::reduce_gradients(double divisor) {
  const at::NoGradGuard no_grad;
  for (const auto& buffer : buffers_) buffer->reduce_gradients(divisor);
  // What ranks of the model share is summed by those who know which that is: they find it as the gradient.
  for (const ModelParameter& parameter : parameters_) parameter.tensor.mutable_grad() = gradient(parameter);
  nn::sum_shared_gradients(chunks_, *context_);
  for (const ModelParameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
}

const at::Tensor& Optimizer::gradient(const ModelParameter& parameter) const {
  const auto [buffer, place] = buffer_of_[static_cast<size_t>(&parameter - parameters_.data())];
  return buffers_[buffer]->gradient(place);
}

at::Tensor Optimizer::gradient_of(size_t slice) const {
  return buffers_[places_[slice].buffer]->gradient_of(places_[slice].range);
}

bool Optimizer::counts(size_t slice) const {
  const ParameterBuffer& buffer = *buffers_[places_[slice].buffer];
  return slices_[slice].parameter->counted && (buffer.sharded() || buffer.replicas().rank() == 0);
}

std::pair<double, int64_t> Optimizer::measure() const {
  std::vector<at::Tensor> gradients;
  for (size_t i = 0; i < slices_.size(); ++i)
    if (counts(i)) gradients.push_back(gradient_of(i));
  at::Tensor sums = at::zeros({2}, at::TensorOptions(at::kDouble).device(context_->device));
  if (!gradients.empty()) {
    const at::Tensor norms = at::stack(at::_foreach_norm(gradients)).to(at::kDouble);
    sums[0].copy_(norms.square().sum());
    if (options_.log_num_zeros_in_grad)
      for (const at::Tensor& gradient : gradients) sums[1].add_((gradient == 0).sum());
  }
  context_->mesh->world.all_reduce(sums);
  sums = sums.cpu();
  return {sums[0].item<double>(), static_cast<int64_t>(sums[1].item<double>())};
}

StepResult Optimizer::step(const StepSettings& settings) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;  // none where all that this rank has is frozen
  for (size_t i = 0; i < slices_.size(); ++i) gradients.push_back(gradient_of(i));
  if (const double scale = loss_scale(); scale != 1 && !gradients.empty()) at::_foreach_mul_(gradients, 1 / scale);
  StepResult result;
  const auto [squares, zeros] = measure();
  result.grad_norm = std::sqrt(squares);
  result.num_zeros = zeros;
  const bool finite = std::isfinite(squares);
  if (scaler_) scaler_->update(!finite);
  if (!finite || result.grad_norm > options_.grad_norm_skip_threshold) return result;
  // Megatron's clipping: the small number keeps a norm of zero from dividing.
  const double factor = options_.clip_grad / (result.grad_norm + 1e-6);
  if (options_.clip_grad > 0 && factor < 1 && !gradients.empty()) at::_foreach_mul_(gradients, factor);
  update(settings);
  result.updated = true;
  return result;
}

void Optimizer::update(const StepSettings& settings) {
  std::map<std::pair<double, double>, std::vector<size_t>> alike;  // by learning rate and weight decay
  for (size_t i = 0; i < slices_.size(); ++i) {
    const ModelParameter& parameter = *slices_[i].parameter;
    const double lr = parameter.embedding_or_output && settings.decoupled_lr ? *settings.decoupled_lr : settings.lr;
    alike[{lr, settings.weight_decay * parameter.weight_decay_multiplier}].push_back(i);
  }
  ++num_updates_;
  for (const auto& [rates, members] : alike) {
    UpdateLists lists;
    lists.state.resize(rule_->state_names().size());
    for (const size_t i : members) {
      const c10::ScalarType type = slices_[i].main.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
      lists.parameters.push_back(in_type(slices_[i].main, type));
      lists.gradients.push_back(in_type(gradient_of(i), type));
      for (size_t s = 0; s < lists.state.size(); ++s) lists.state[s].push_back(in_type(slices_[i].state[s], type));
    }
    rule_->update(lists, num_updates_, rates.first, rates.second);
    for (size_t m = 0; m < members.size(); ++m) {
      const OptimizerSlice& slice = slices_[members[m]];
      write_back(lists.parameters[m], slice.main);
      for (size_t s = 0; s < lists.state.size(); ++s) write_back(lists.state[s][m], slice.state[s]);
    }
  }
  main_parameters_changed();
}

void Optimizer::main_parameters_changed() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < slices_.size(); ++i) {
    const at::Tensor parameter = buffers_[places_[i].buffer]->parameter_of(places_[i].range);
    if (!parameter.is_alias_of(slices_[i].main)) parameter.copy_(slices_[i].main);
  }
  for (const auto& buffer : buffers_) buffer->gather_parameters();
}

void Optimizer::parameters_changed() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < slices_.size(); ++i) {
    const at::Tensor parameter = buffers_[places_[i].buffer]->parameter_of(places_[i].range);
    if (!parameter.is_alias_of(slices_[i].main)) slices_[i].main.copy_(parameter);
  }
}

}  // namespace viaduct::optim
