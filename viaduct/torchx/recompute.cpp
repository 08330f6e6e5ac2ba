#include "viaduct/torchx/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <mutex>

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

  void release_variables() override {
    inputs_.clear();
    segment_ = nullptr;
  }

  variable_list apply(variable_list&& gradients) override {
    VIADUCT_USER_CHECK(!at::GradMode::is_enabled(),
                       "a second derivative through recomputed activations: call backward without create_graph, or "
                       "set model.recompute_granularity=null");
    VIADUCT_USER_CHECK(segment_, "backward a second time through recomputed activations");
    variable_list inputs, roots, root_gradients;
    for (const at::Tensor& input : inputs_)
      inputs.push_back(input.detach().set_requires_grad(input.requires_grad()));
    {
      const at::AutoGradMode record(true);
      const RandomStateGuard random(generator_, random_state_);
      const variable_list outputs = segment_(inputs);
      VIADUCT_CHECK_EQ(outputs.size(), gradients.size(), "outputs of a segment that is computed again");
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
        roots.push_back(outputs[i]);
        root_gradients.push_back(gradients[i]);
      }
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
};

}  // namespace

std::vector<at::Tensor> recomputed(const std::vector<at::Tensor>& inputs, Segment segment) {
  if (!at::GradMode::is_enabled()) return segment(inputs);
  VIADUCT_CHECK(!inputs.empty(), "a segment without inputs");
  const std::shared_ptr<RecomputeNode> node(new RecomputeNode(inputs, std::move(segment)),
                                            torch::autograd::deleteNode);
  variable_list outputs;
  {
    const at::NoGradGuard no_grad;
    // Tensors of their own: outputs may be views, or the inputs themselves.
    for (const at::Tensor& output : node->segment()(inputs)) outputs.push_back(output.detach());
  }
  // Also where no input has a gradient: parameters that the segment uses by itself have one.
  torch::autograd::set_history(outputs, node);
  return outputs;
}

at::Tensor recomputed(const at::Tensor& input, std::function<at::Tensor(const at::Tensor&)> segment) {
  return recomputed(std::vector<at::Tensor>{input},
                    [segment = std::move(segment)](const auto& inputs) {
                      return std::vector<at::Tensor>{segment(inputs.front())};
                    })
      .front();
}

}  // namespace viaduct::torchx
