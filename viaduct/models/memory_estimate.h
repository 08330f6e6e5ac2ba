// How much memory a training run takes on the ranks of each pipeline stage, without building anything.
#pragma once

#include <cstdint>
#include <vector>

#include "viaduct/config/config_container.h"
#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// What the ranks of one pipeline stage hold; they are all alike, so a stage is a class of ranks. Bytes are of one
/// rank.
struct StageMemory {
  int pp_rank = 0;
  int64_t ranks = 0;       // of this class
  int64_t layers = 0;      // transformer layers, without multi-token prediction
  int64_t parameters = 0;  // that a rank holds, experts among them
  int64_t expert_parameters = 0;
  int64_t adapter_parameters = 0;
  double weights = 0;  // bytes
  double gradients = 0;
  double optimizer = 0;    // main parameters and moments
  double activations = 0;  // of all micro batches in flight, and the logits of one

  /// All of it.
  double total() const { return weights + gradients + optimizer + activations; }
};

/// The whole estimate.
struct MemoryEstimate {
  std::vector<StageMemory> stages;  // by pipeline rank
  /// The stage whose ranks need most.
  const StageMemory& largest() const;
};

/// Estimates for a finalized configuration (config/finalize.h) on `world_size` ranks.
///
/// Weights count their type's bytes; gradients four bytes with ddp.grad_reduce_in_fp32 or fp32 parameters, else the
/// type's; Adam's state two moments of exp_avg_dtype and exp_avg_sq_dtype, SGD's one in fp32, and an fp32 copy of
/// parameters of less precision. With the distributed optimizer its state is cut among the ranks that hold the same
/// parameters (data and context parallel, of experts those of the same experts). With an adapter only its own
/// parameters have gradients and state. Activations are those of the micro batches that the pipeline's schedule
/// (1F1B, interleaved) has in flight (activation_memory.h), by the recompute settings, and the logits in fp32. Not
/// counted: buffers of communication, workspaces, the allocator's loss, the CUDA context.
///
/// UserError when the layout does not fit the model.
MemoryEstimate estimate_memory(const ArchSpec& arch, const config::ConfigContainer& config, int world_size);

}  // namespace viaduct::models
