// What a layer keeps of a forward pass for its backward pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// How activations are cut and kept.
struct ActivationOptions {
  double tokens = 0;  // of a micro batch on a rank: micro batch size * sequence length / context parallel size
  int tp = 1;         // tensor parallel size
  int etp = 1;        // of the experts
  bool sequence_parallel = false;  // are the parts outside of matrix products cut among the tensor-parallel ranks?
  double element_bytes = 2;        // of activations
  double attention_dropout = 0;    // with dropout, masks of one byte an element are kept
  double hidden_dropout = 0;
  /// Parts of a layer that are computed again: upstream's recompute_modules.
  std::vector<std::string> recomputed;
};

/// Bytes that a rank keeps of one layer and one micro batch. Attention is counted as the fused kernels keep it:
/// queries, keys, values, output and one logarithm a head and token, no matrix of scores. For a dense layer with a
/// GELU MLP of four times the hidden size and dropout this is 34 * tokens * hidden / tp bytes with sequence
/// parallelism and (10 + 24 / tp) * tokens * hidden without (arXiv:2205.05198, equations 1, 2 and 4 without the
/// scores). Experts are counted as if tokens were spread evenly.
double layer_activation_bytes(const ArchSpec& arch, const LayerSpec& layer, const ActivationOptions& options);

/// Bytes of a layer's input alone, which is what full recomputation keeps.
double layer_input_bytes(const ArchSpec& arch, const ActivationOptions& options);

}  // namespace viaduct::models
