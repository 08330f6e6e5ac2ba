#include "viaduct/torchx/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "viaduct/core/error.h"

namespace viaduct::torchx {

namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;

at::Tensor random_state(at::Generator generator) {
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(at::Generator generator, const at::Tensor& state) {
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

// While it lives the generator is where it was when `state` was taken.
class RandomStateGuard {
 public:
  RandomStateGuard(const at::Generator& generator, const at::Tensor& state)
      : generator_(generator), outer_(random_state(generator)) {
    set_random_state(generator_, state);
  }
  ~RandomStateGuard() { set_random_state(generator_, outer_); }
  RandomStateGuard(const RandomStateGuard&) = delete;
  RandomStateGuard& operator=(const RandomStateGuard&) = delete;

 private:
  at::Generator generator_;
  at::Tensor outer_;
};

// The bytes of an output that are let go and come back.
class Forgotten {
 public:
  explicit Forgotten(const at::Tensor& output) : storage_(output.storage()), offset_(output.storage_offset()) {
    storage_.unsafeGetStorageImpl()->set_data_ptr_noswap(c10::DataPtr(nullptr, storage_.device()));
    storage_.set_nbytes(0);
  }
  // The bytes of the same output, computed again: they are shared from now on.
  void restore(const at::Tensor& again) {
    VIADUCT_CHECK_EQ(again.storage_offset(), offset_, "offset of an output that was computed again");
    auto* held = new c10::Storage(again.storage());
    storage_.unsafeGetStorageImpl()->set_data_ptr_noswap(c10::DataPtr(
        held->mutable_data(), held, [](void* storage) { delete static_cast<c10::Storage*>(storage); },
        held->device()));
    storage_.set_nbytes(held->nbytes());
  }

 private:
  c10::Storage storage_;
  int64_t offset_;
};

// The backward pass of a segment: forward again, then backward through what that recorded.
class RecomputeNode : public Node {
 public:
  RecomputeNode(const variable_list& inputs, Segment segment)
      : Node(torch::autograd::collect_next_edges(inputs)),
        inputs_(inputs),
        segment_(std::move(segment)),
        generator_(at::globalContext().defaultGenerator(inputs.front().device())),
        random_state_(random_state(generator_)) {}

  const Segment& segment() const { return segment_; }
  std::string name() const override { return "viaduct::Recompute"; }

  // Lets go what no input shares.
  void forget(const variable_list& outputs) {
    for (size_t i = 0; i < outputs.size(); ++i)
      if (std::none_of(inputs_.begin(), inputs_.end(),
                       [&](const at::Tensor& input) { return input.is_alias_of(outputs[i]); }))
        forgotten_.emplace_back(i, outputs[i]);
  }

  // Forward again, and what was let go comes back.
  void compute_again() {
    VIADUCT_USER_CHECK(segment_, "backward a second time through recomputed activations");
    for (const at::Tensor& input : inputs_)
      again_inputs_.push_back(input.detach().set_requires_grad(input.requires_grad()));
    const at::AutoGradMode record(true);
    const RandomStateGuard random(generator_, random_state_);
    again_ = segment_(again_inputs_);
    for (auto& [i, output] : forgotten_) output.restore(again_.at(i));
    forgotten_.clear();
  }

  void release_variables() override {
    inputs_.clear();
    again_inputs_.clear();
    again_.clear();
    segment_ = nullptr;
  }

  variable_list apply(variable_list&& gradients) override {
    VIADUCT_USER_CHECK(!at::GradMode::is_enabled(),
                       "a second derivative through recomputed activations: call backward without create_graph, or "
                       "set model.recompute_granularity=null");
    if (again_.empty()) compute_again();
    const variable_list inputs = std::move(again_inputs_), outputs = std::move(again_);
    again_inputs_.clear();
    again_.clear();
    VIADUCT_CHECK_EQ(outputs.size(), gradients.size(), "outputs of a segment that is computed again");
    variable_list roots, root_gradients;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
      roots.push_back(outputs[i]);
      root_gradients.push_back(gradients[i]);
    }
    if (!roots.empty()) torch::autograd::backward(roots, root_gradients);
    variable_list result;
    for (const at::Tensor& input : inputs) result.push_back(input.grad());
    return result;
  }

 private:
  variable_list inputs_;
  Segment segment_;
  at::Generator generator_;
  at::Tensor random_state_;
  std::vector<std::pair<size_t, Forgotten>> forgotten_;
  variable_list again_inputs_, again_;  // between compute_again and apply
};

// Of the segments that this thread computes outside of autograd now.
thread_local int first_runs = 0;

class FirstRunGuard {
 public:
  FirstRunGuard() { ++first_runs; }
  ~FirstRunGuard() { --first_runs; }
  FirstRunGuard(const FirstRunGuard&) = delete;
  FirstRunGuard& operator=(const FirstRunGuard&) = delete;
};

// The segment's outputs, and the node behind them.
std::pair<variable_list, std::shared_ptr<RecomputeNode>> run(const variable_list& inputs, Segment segment) {
  VIADUCT_CHECK(!inputs.empty(), "a segment without inputs");
  const std::shared_ptr<RecomputeNode> node(new RecomputeNode(inputs, std::move(segment)),
                                            torch::autograd::deleteNode);
  variable_list outputs;
  {
    const at::NoGradGuard no_grad;
    const FirstRunGuard first_run;
    // Tensors of their own: outputs may be views, or the inputs themselves.
    for (const at::Tensor& output : node->segment()(inputs)) outputs.push_back(output.detach());
  }
  // Also where no input has a gradient: parameters that the segment uses by itself have one.
  torch::autograd::set_history(outputs, node);
  return {std::move(outputs), node};
}

Segment of_one(std::function<at::Tensor(const at::Tensor&)> segment) {
  return [segment = std::move(segment)](const variable_list& inputs) {
    return variable_list{segment(inputs.front())};
  };
}

}  // namespace

bool has_gradients() { return first_runs > 0 || at::GradMode::is_enabled(); }

std::vector<at::Tensor> recomputed(const std::vector<at::Tensor>& inputs, Segment segment) {
  return at::GradMode::is_enabled() ? run(inputs, std::move(segment)).first : segment(inputs);
}

at::Tensor recomputed(const at::Tensor& input, std::function<at::Tensor(const at::Tensor&)> segment) {
  return recomputed(variable_list{input}, of_one(std::move(segment))).front();
}

at::Tensor recomputed_for(const std::vector<at::Tensor>& inputs, Segment segment,
                          const std::function<at::Tensor(const std::vector<at::Tensor>&)>& user) {
  if (!at::GradMode::is_enabled()) return user(segment(inputs));
  const auto [outputs, node] = run(inputs, std::move(segment));
  const at::Tensor result = user(outputs);
  const bool shared = std::any_of(outputs.begin(), outputs.end(),
                                  [&](const at::Tensor& output) { return output.is_alias_of(result); });
  if (shared || !result.requires_grad()) return result;
  node->forget(outputs);
  result.register_hook([node = node](const at::Tensor&) { node->compute_again(); });
  return result;
}

at::Tensor recomputed_for(const at::Tensor& input, std::function<at::Tensor(const at::Tensor&)> segment,
                          const std::function<at::Tensor(const at::Tensor&)>& user) {
  return recomputed_for(variable_list{input}, of_one(std::move(segment)),
                        [&user](const variable_list& outputs) { return user(outputs.front()); });
}

}  // namespace viaduct::torchx
