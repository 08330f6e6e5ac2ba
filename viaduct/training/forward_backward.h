// ForwardBackward: all micro-batches of an iteration through this rank's model chunks, and back.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "viaduct/parallel/timers.h"
#include "viaduct/training/forward_step.h"

namespace viaduct::training {

/// How it runs.
struct ForwardBackwardOptions {
  int num_microbatches = 1;
  bool forward_only = false;
  double loss_scale = 1.0;
  /// Losses are summed over the tokens of all micro-batches and ranks, and divided once by how many there are;
  /// otherwise each micro-batch's mean counts the same (upstream's calculate_per_token_loss).
  bool per_token_loss = false;
  /// Measures the parts of micro-batches (timing_log_level 2); null: nothing does.
  parallel::Timers* timers = nullptr;
};

/// What came of it, the same on all ranks.
struct ForwardBackwardResult {
  /// By name, over all ranks and micro-batches: sums divided by what they are to be divided by.
  std::map<std::string, double> losses;
  double num_tokens = 0;  // that count, of all ranks
};

/// Collective. Gradients are left where autograd puts them, as sums over this rank's micro-batches. With
/// `per_token_loss` they must be divided by num_tokens and summed over data-parallel ranks, otherwise averaged.
ForwardBackwardResult forward_backward(const std::vector<std::shared_ptr<nn::GptModel>>& chunks,
                                       const ForwardStep& forward_step, MicroBatches& batches,
                                       const ForwardBackwardOptions& options);

}  // namespace viaduct::training
