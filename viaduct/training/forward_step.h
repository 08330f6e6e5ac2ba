// The contract between the training loop and what is computed in it: a forward step makes a loss of a micro-batch.
// Upstream's forward_step_func and its loss function, in one.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>

#include "viaduct/nn/gpt_model.h"

namespace viaduct::training {

/// What one forward step computes on.
struct MicroBatch {
  at::Tensor tokens;                       // [b, s] int64
  at::Tensor labels;                       // [b, s] int64
  at::Tensor loss_mask;                    // [b, s] float32
  at::Tensor position_ids;                 // [b, s] int64; undefined: 0, 1, ... s - 1
  nn::PackedSequencesPtr packed;           // attention stays inside of these; null: a row is one sequence
  std::map<std::string, at::Tensor> more;  // what a forward step of one's own needs
};

/// This data-parallel rank's micro-batches, in order.
class MicroBatches {
 public:
  virtual ~MicroBatches() = default;
  /// UserError when there are no more.
  virtual MicroBatch next() = 0;
};

/// What a forward step made of the model's output.
struct Loss {
  at::Tensor sum;         // scalar, with its gradient: over the tokens that count
  at::Tensor num_tokens;  // scalar: how many count; undefined: `sum` is a mean already
  /// What is logged: [2], a sum and what it is divided by, both added up over micro-batches and ranks.
  std::map<std::string, at::Tensor> logged;
};

/// One forward step of a model chunk.
struct ForwardInput {
  const nn::GptModel& model;
  const MicroBatch& batch;
  const at::Tensor& hidden;  // of the chunk before; undefined for the first
  nn::ForwardPass& pass;
};

/// What it returns: hidden states for the next chunk, or on the model's last chunk a loss.
struct ForwardOutput {
  at::Tensor hidden;
  Loss loss;
};

/// Called for every chunk and micro-batch.
using ForwardStep = std::function<ForwardOutput(const ForwardInput&)>;

/// The loss of a language model: cross entropy of the labels where the mask counts, logged as "lm loss" (upstream's
/// gpt_step).
ForwardOutput gpt_forward_step(const ForwardInput& input);

}  // namespace viaduct::training
