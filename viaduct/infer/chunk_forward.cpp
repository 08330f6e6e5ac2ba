#include "viaduct/infer/chunk_forward.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"

namespace viaduct::infer {

at::Tensor forward_logits(std::span<const std::shared_ptr<nn::GptModel>> chunks, const at::Tensor& tokens,
                          nn::ForwardPass& pass, bool last_only) {
  VIADUCT_CHECK(!chunks.empty(), "a model without chunks");
  const nn::ModelContext& context = chunks.front()->context();
  const parallel::Group& pp = context.mesh->pp;
  const bool first = pp.rank() == 0, last = pp.rank() == pp.size() - 1;
  at::Tensor hidden;
  for (const auto& chunk : chunks) {
    if (!chunk->has_embedding() && !pp.alone()) {
      hidden = at::empty({tokens.size(1), tokens.size(0), context.arch.hidden_size}, context.options());
      pp.receive(hidden, first ? pp.size() - 1 : pp.rank() - 1);
    }
    hidden = chunk->forward_hidden(tokens, hidden, pass);
    if (chunk->has_output()) break;
    if (!pp.alone()) pp.send(hidden, last ? 0 : pp.rank() + 1);
  }
  if (!chunks.back()->has_output()) return {};
  if (last_only) hidden = hidden.narrow(0, hidden.size(0) - 1, 1);
  return nn::gather_logits(chunks.back()->output(hidden), context);
}

}  // namespace viaduct::infer
