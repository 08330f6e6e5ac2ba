// The arithmetic of a model: floating point operations of a token, for throughput and for plans.
#pragma once

#include <cstdint>

#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// On what the count depends beside the model.
struct FlopOptions {
  double seq_length = 0;    // tokens of a sequence
  double mean_context = 0;  // sum of squared lengths / sum of lengths, when sequences are packed; 0: seq_length
  int64_t vocab_rows = 0;   // rows of the output layer with their padding; 0: the vocabulary
};

/// Multiply-adds of one token's forward pass, by part. Those of attention's scores are averages over the causal
/// mask.
///
/// The formula is Megatron Bridge's (training/utils/flop_utils.py of 0.6.2; for dense layers arXiv:2205.05198), so
/// that TFLOP/s can be compared: matrix products, scores and weighted sums of attention, scans of Mamba and of the
/// gated delta net count; norms, activations, the router, rotary embedding and towers do not (but for the norms
/// inside latent attention and before multi-token prediction, which upstream counts). It is applied layer by layer,
/// so that windows, dense layers and heterogeneous blocks count where they are, and Mamba with its own inner size.
struct FlopCounts {
  double projections = 0;  // of queries, keys, values, gates, outputs
  double scores = 0;       // queries * keys, and the sum of values
  double mixers = 0;       // Mamba, gated delta net, linear mixers
  double mlp = 0;          // dense MLPs
  double experts = 0;      // routed and shared experts
  double prediction = 0;   // multi-token prediction's own projections and norms (its layers are above)
  double vocabulary = 0;   // output layers

  /// Multiply-adds of one token, forward.
  double multiply_adds() const { return projections + scores + mixers + mlp + experts + prediction + vocabulary; }
  /// Operations of one token in training: forward once and backward twice, two for a multiply-add.
  double training_flops() const { return 6 * multiply_adds(); }
};

/// Counts the operations of the language model.
FlopCounts count_flops(const ArchSpec& arch, const FlopOptions& options);

}  // namespace viaduct::models
