#include <ATen/ATen.h>

#include "viaduct/nn/cross_entropy.h"
#include "viaduct/training/forward_step.h"

namespace viaduct::training {

ForwardOutput gpt_forward_step(const ForwardInput& input) {
  const MicroBatch& batch = input.batch;
  if (batch.position_ids.defined() && !input.pass.positions.defined())
    input.pass.positions = batch.position_ids.t();
  if (batch.packed) input.pass.packed = batch.packed;
  const at::Tensor output = input.model.forward(batch.tokens, input.hidden, input.pass);
  if (!input.model.has_output()) return {output, {}};
  const at::Tensor losses = nn::vocab_parallel_cross_entropy(output, batch.labels.t(), input.model.context());
  const at::Tensor mask = batch.loss_mask.t();
  Loss loss{(losses * mask).sum(), mask.sum(), {}};
  loss.logged["lm loss"] = at::stack({loss.sum.detach().to(at::kDouble), loss.num_tokens.to(at::kDouble)});
  return {{}, std::move(loss)};
}

}  // namespace viaduct::training
