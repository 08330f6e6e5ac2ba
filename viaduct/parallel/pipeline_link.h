// PipelineLink: hidden states and their gradients on their way between the stages of a pipeline.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "viaduct/parallel/group.h"

namespace viaduct::parallel {

/// What a stage exchanges with the one before and the one after it. The stages form a ring: with several model
/// chunks a stage, the last stage's chunk i goes on in chunk i + 1 of the first.
///
/// Sends return at once, receives when the tensor is there: so stages cannot wait for each other in a circle, in
/// whatever order they send, and forms that send and receive at once are not needed. Tensors of one direction
/// arrive in the order in which they were sent.
class PipelineLink {
 public:
  /// Collective among the stages. `hidden`: the element type (upstream's pipeline_dtype) and device of all tensors.
  PipelineLink(const Group& stages, const at::TensorOptions& hidden);

  /// Hidden states [s, b, h] to the next stage.
  void send_forward(const at::Tensor& hidden);
  /// Those of the stage before.
  at::Tensor receive_forward(const std::vector<int64_t>& sizes);
  /// The gradient of what was received, to the stage before.
  void send_backward(const at::Tensor& gradient);
  /// The gradient of what was sent to the next stage.
  at::Tensor receive_backward(const std::vector<int64_t>& sizes);
  /// Waits for everything sent.
  void finish();

 private:
  enum Direction : int { kForward, kBackward };
  void send(const at::Tensor& tensor, int to, Direction direction);
  at::Tensor receive(const std::vector<int64_t>& sizes, int from, Direction direction);

  Group stages_;
  at::TensorOptions hidden_;
  int before_;
  int next_;
  std::deque<std::unique_ptr<Transfer>> sent_;
};

}  // namespace viaduct::parallel
