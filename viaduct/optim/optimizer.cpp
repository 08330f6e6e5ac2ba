#include "viaduct/optim/optimizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <ranges>

#include "viaduct/core/error.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/gradients.h"
#include "viaduct/optim/rounded_update.h"

namespace viaduct::optim {

Optimizer::Optimizer(const nn::ModelChunks& chunks, nn::ContextPtr context, OptimizerOptions options)
    : chunks_(chunks),
      context_(std::move(context)),
      options_(std::move(options)),
      rule_(make_update_rule(options_.update)),
      parameters_(model_parameters(chunks_, *context_)),
      buffer_of_(parameters_.size()) {
  if (options_.loss_scaling) scaler_.emplace(*options_.loss_scaling);
  for (ModelParameter& parameter : parameters_)
    if (options_.apply_wd_to_qk_layernorm &&
        (parameter.name.ends_with("q_layernorm.weight") || parameter.name.ends_with("k_layernorm.weight")))
      parameter.weight_decay_multiplier = 1;
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
    const bool expert = std::get<1>(kind);
    const std::optional<parallel::Group>& own = expert ? options_.expert_replicas : options_.replicas;
    const parallel::Group& replicas = own ? *own : expert ? mesh.edp : mesh.dp_cp;
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
  order_buckets();
  gate_chunks();
}

Optimizer::~Optimizer() {
  if (!options_.overlap_param_gather) return;
  for (const auto& chunk : chunks_) dynamic_cast<nn::GptModel&>(*chunk).before_use(nullptr);
}

void Optimizer::order_buckets() {
  // Backward comes from the last chunk, and in it from the last parameter.
  std::map<size_t, BucketPlace, std::greater<>> by_last_gradient;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto [buffer, place] = buffer_of_[i];
    const BucketPlace bucket{buffer, buffers_[buffer]->bucket_of(place)};
    bucket_of_.emplace(parameters_[i].tensor.unsafeGetTensorImpl(), bucket);
    if (buffers_[buffer]->first_parameter(bucket.bucket) == place) by_last_gradient.emplace(i, bucket);
  }
  for (const auto& [parameter, bucket] : by_last_gradient) order_.push_back(bucket);
}

void Optimizer::gate_chunks() {
  const auto is_gpt = [](const auto& chunk) { return dynamic_cast<nn::GptModel*>(chunk.get()) != nullptr; };
  options_.overlap_param_gather = options_.overlap_param_gather && std::ranges::all_of(chunks_, is_gpt);
  if (!options_.overlap_param_gather) return;
  for (const auto& chunk : chunks_)
    dynamic_cast<nn::GptModel&>(*chunk).before_use([this](const torch::nn::Module& module) { wait_for(module); });
}

void Optimizer::begin_iteration(int64_t num_microbatches, double divisor) {
  for (const ModelParameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
  std::function<void()> complete;
  if (options_.overlap_grad_reduce) complete = [this] { start_reductions(/*all=*/false); };
  for (const auto& buffer : buffers_) buffer->expect_gradients(num_microbatches, complete);
  started_ = 0;
  divisor_ = divisor;
}

void Optimizer::start_reductions(bool all) {
  for (; started_ < order_.size(); ++started_) {
    const auto [buffer, bucket] = order_[started_];
    if (!all && !buffers_[buffer]->complete(bucket)) return;
    buffers_[buffer]->start_reduction(bucket, divisor_);
  }
}

void Optimizer::reduce_gradients(double divisor) {
  const at::NoGradGuard no_grad;
  start_reductions(/*all=*/true);
  for (const auto& [buffer, bucket] : order_) buffers_[buffer]->finish_reduction(bucket);
  if (divisor != 1)
    for (const auto& buffer : buffers_) buffer->gradients().div_(divisor);
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
  finish_gathering();                 // the update writes into what is sent
  std::vector<at::Tensor> gradients;  // none where all that this rank has is frozen
  for (size_t i = 0; i < slices_.size(); ++i) gradients.push_back(gradient_of(i));
  StepResult result;
  const auto [squares, zeros] = [&] {
    const parallel::Timing timing = this->timing("optimizer-unscale-and-check-inf");
    if (const double scale = loss_scale(); scale != 1 && !gradients.empty())
      at::_foreach_mul_(gradients, 1 / scale);
    return measure();
  }();
  result.grad_norm = std::sqrt(squares);
  result.num_zeros = zeros;
  const bool finite = std::isfinite(squares);
  if (scaler_) scaler_->update(!finite);
  if (!finite || result.grad_norm > options_.grad_norm_skip_threshold) return result;
  {
    const parallel::Timing timing = this->timing("optimizer-inner-step");
    // Megatron's clipping: the small number keeps a norm of zero from dividing.
    const double factor = options_.clip_grad / (result.grad_norm + 1e-6);
    update(settings, options_.clip_grad > 0 && factor < 1 ? 1 / factor : 1);
  }
  {
    const parallel::Timing timing = this->timing("optimizer-copy-main-to-model-params");
    copy_to_parameters();
  }
  gather_parameters();
  result.updated = true;
  return result;
}

void Optimizer::update(const StepSettings& settings, double divisor) {
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
      lists.parameters.push_back(slices_[i].main);
      lists.gradients.push_back(gradient_of(i));
      for (size_t s = 0; s < lists.state.size(); ++s) lists.state[s].push_back(slices_[i].state[s]);
    }
    update_rounded(*rule_, std::move(lists), {num_updates_, rates.first, rates.second, divisor});
  }
}

void Optimizer::main_parameters_changed() {
  const at::NoGradGuard no_grad;
  finish_gathering();
  copy_to_parameters();
  gather_parameters();
}

void Optimizer::copy_to_parameters() {
  for (size_t i = 0; i < slices_.size(); ++i) {
    const at::Tensor parameter = buffers_[places_[i].buffer]->parameter_of(places_[i].range);
    if (!parameter.is_alias_of(slices_[i].main)) parameter.copy_(slices_[i].main);
  }
}

void Optimizer::gather_parameters() {
  const bool waits = sharded() && !options_.overlap_param_gather;
  const parallel::Timing timing(waits ? options_.timers : nullptr, "params-all-gather", 1,
                                options_.barrier_with_L1_time);
  // What forward needs first comes first.
  for (const auto& [buffer, bucket] : order_ | std::views::reverse) {
    if (!buffers_[buffer]->gathers()) continue;
    buffers_[buffer]->start_gather(bucket);
    ++gathering_;
  }
  if (!options_.overlap_param_gather) finish_gathering();
}

void Optimizer::finish_gathering() {
  for (const auto& [buffer, bucket] : order_ | std::views::reverse)
    if (gathering_ > 0 && buffers_[buffer]->finish_gather(bucket)) --gathering_;
  VIADUCT_CHECK_EQ(gathering_, size_t{0}, "buckets on their way");
}

void Optimizer::wait_for(const torch::nn::Module& module) {
  if (gathering_ == 0) return;
  for (const at::Tensor& parameter : module.parameters())
    if (const auto found = bucket_of_.find(parameter.unsafeGetTensorImpl()); found != bucket_of_.end())
      if (buffers_[found->second.buffer]->finish_gather(found->second.bucket)) --gathering_;
}

void Optimizer::parameters_changed() {
  const at::NoGradGuard no_grad;
  finish_gathering();
  for (size_t i = 0; i < slices_.size(); ++i) {
    const at::Tensor parameter = buffers_[places_[i].buffer]->parameter_of(places_[i].range);
    if (!parameter.is_alias_of(slices_[i].main)) slices_[i].main.copy_(parameter);
  }
}

}  // namespace viaduct::optim
