// LinearAdapter: what may stand beside a linear layer and add to what it makes. peft/ implements it.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "viaduct/core/shape.h"
#include "viaduct/layout/split.h"

namespace viaduct::nn {

/// A parameter of an adapter, which the model's own description does not list.
struct AdapterParameter {
  std::string name;      // within the adapter: "linear_in.weight"
  at::Tensor tensor;     // this rank's part
  Shape shape;           // of the whole
  layout::Split split;   // among the tensor-parallel ranks; of an expert among the expert-tensor-parallel ones
  bool expert = false;   // reduced among the replicas of the same experts
  int local_expert = 0;  // of one that each expert has for itself: of which of this rank's
  bool shared_by_experts = false;  // one for all experts of a layer, those of other ranks included
};

/// What is added to a linear's product. What it gets and returns depends on the linear (see linear.h):
///   column-parallel  x [s, b, in] whole, its gradient summed over the ranks by the linear; this rank's part
///                    [s, b, out / tp]
///   row-parallel     x [s, b, in / tp]; what the linear returns: [s, b, out], summed, under sequence parallelism
///                    this rank's positions
///   replicated       x [..., in]; [..., out]
///   of experts       rows [n, in], rows_per_expert[i] of them of expert i; [n, out], of an expert's second linear
///                    a part that is summed over the expert-tensor-parallel ranks
class LinearAdapter : public torch::nn::Module {
 public:
  /// Its sum. `rows_per_expert` is empty but for experts.
  virtual at::Tensor forward(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const = 0;
  /// All of them, in the order of the module's.
  virtual std::vector<AdapterParameter> adapter_parameters() const = 0;

  /// Switched off, the layer is as if there were no adapter.
  void set_enabled(bool enabled) { enabled_ = enabled; }
  /// Is it on?
  bool enabled() const { return enabled_; }

 private:
  bool enabled_ = true;
};

/// A linear that may have an adapter: module "adapter" inside of it.
class AdaptableLinear : public torch::nn::Module {
 public:
  /// Puts it there, once.
  void set_adapter(std::shared_ptr<LinearAdapter> adapter) {
    adapter_ = register_module("adapter", std::move(adapter));
  }
  /// Null without one.
  const std::shared_ptr<LinearAdapter>& adapter() const { return adapter_; }

 protected:
  /// The product with what the adapter adds to it.
  at::Tensor adapted(const at::Tensor& product, const at::Tensor& x,
                     const std::vector<int64_t>& rows_per_expert = {}) const;

 private:
  std::shared_ptr<LinearAdapter> adapter_;
};

}  // namespace viaduct::nn
