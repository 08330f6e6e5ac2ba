#include "viaduct/parallel/pipeline_link.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

PipelineLink::PipelineLink(const Group& stages, const at::TensorOptions& hidden)
    : stages_(stages),
      hidden_(hidden.requires_grad(std::nullopt)),
      before_((stages.rank() + stages.size() - 1) % stages.size()),
      next_((stages.rank() + 1) % stages.size()) {
  if (stages_.alone()) return;
  // All lines, in the same order on all stages: the first tensor then finds its line ready.
  for (int stage = 0; stage < stages_.size(); ++stage) {
    const int next = (stage + 1) % stages_.size();
    stages_.connect(stage, next, kForward);
    stages_.connect(next, stage, kBackward);
  }
}

void PipelineLink::send(const at::Tensor& tensor, int to, Direction direction) {
  VIADUCT_CHECK(tensor.scalar_type() == c10::typeMetaToScalarType(hidden_.dtype()),
                "a {} tensor between stages that exchange {}", c10::toString(tensor.scalar_type()),
                c10::toString(c10::typeMetaToScalarType(hidden_.dtype())));
  while (!sent_.empty() && sent_.front()->done()) sent_.pop_front();
  sent_.push_back(stages_.start_send(tensor.detach(), to, direction));
}

at::Tensor PipelineLink::receive(const std::vector<int64_t>& sizes, int from, Direction direction) {
  at::Tensor tensor = at::empty(sizes, hidden_);
  stages_.receive(tensor, from, direction);
  return tensor;
}

void PipelineLink::send_forward(const at::Tensor& hidden) { send(hidden, next_, kForward); }
at::Tensor PipelineLink::receive_forward(const std::vector<int64_t>& sizes) {
  return receive(sizes, before_, kForward);
}
void PipelineLink::send_backward(const at::Tensor& gradient) { send(gradient, before_, kBackward); }
at::Tensor PipelineLink::receive_backward(const std::vector<int64_t>& sizes) {
  return receive(sizes, next_, kBackward);
}

void PipelineLink::finish() {
  for (; !sent_.empty(); sent_.pop_front()) sent_.front()->wait();
}

}  // namespace viaduct::parallel
