// What an optimizer must know of a model's parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "viaduct/nn/live_model.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::optim {

/// One parameter that is trained, on this rank.
struct ModelParameter {
  int chunk = 0;
  std::string name;  // as the chunk registers it
  at::Tensor tensor;
  /// Reduced among the ranks that hold the same experts, not among all data-parallel ones.
  bool expert = false;
  /// Of the ranks of the model that hold the same elements, is this the one that counts them in sums over the
  /// model? (Replicas of data parallelism all say the same.)
  bool counted = true;
  /// A tied embedding of which another stage has a copy.
  bool shared_among_stages = false;
  /// 0 for biases and other parameters of one dimension.
  double weight_decay_multiplier = 1.0;
  /// Of the embedding or the output layer: trained with decoupled_lr where there is one.
  bool embedding_or_output = false;
};

/// Those of all chunks that have gradients, in the order of the modules.
std::vector<ModelParameter> model_parameters(const nn::ModelChunks& chunks, const nn::ModelContext& context);

}  // namespace viaduct::optim
