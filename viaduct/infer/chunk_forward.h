// One forward pass through all model chunks of all pipeline stages, without gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>

#include "viaduct/nn/gpt_model.h"

namespace viaduct::infer {

/// `tokens` [b, s] go in at the first stage, hidden states from stage to stage; every rank of the pipeline calls
/// it. Logits [s', b, vocab_size] (all of the vocabulary) on the last stage, undefined elsewhere; of the last
/// position alone (s' = 1) with `last_only`. Observers of `pass` see the layers of their own rank.
at::Tensor forward_logits(std::span<const std::shared_ptr<nn::GptModel>> chunks, const at::Tensor& tokens,
                          nn::ForwardPass& pass, bool last_only);

}  // namespace viaduct::infer
