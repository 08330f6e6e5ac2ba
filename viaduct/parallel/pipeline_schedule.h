// PipelineSchedule: in which order a pipeline stage computes its microbatches, and the driver that does it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "viaduct/parallel/group.h"
#include "viaduct/parallel/timers.h"

namespace viaduct::parallel {

/// One step of a stage: a model chunk forward or backward over a microbatch.
struct PipelineStep {
  bool forward;
  int chunk;
  int microbatch;
  friend bool operator==(const PipelineStep&, const PipelineStep&) = default;
};

/// A pipeline and what runs through it.
struct PipelineShape {
  int stages = 1;
  /// Model chunks a stage (virtual pipeline size).
  int chunks = 1;
  int microbatches = 1;
  bool forward_only = false;
};

/// The steps of stage `rank`, in order: Megatron's 1F1B (warm-up with as many forwards as there are stages after
/// this one, then one forward and one backward in turn), with several chunks its interleaved form (Narayanan et al.
/// 2021, with groups of as many microbatches as there are stages). UserError when several chunks have no multiple
/// of `stages` microbatches.
std::vector<PipelineStep> pipeline_steps(const PipelineShape& shape, int rank);

/// The model as the schedule sees it.
struct PipelineModel {
  /// Computes chunk `chunk` of this stage over microbatch `microbatch`. `input` is what the chunk before it
  /// returned; undefined for the model's first chunk. Returns the hidden state for the next chunk; the model's last
  /// chunk returns the loss, a scalar that is already divided by the number of microbatches (anything in a
  /// forward-only run).
  std::function<at::Tensor(int chunk, int microbatch, const at::Tensor& input)> forward;
  /// Sizes of the hidden states of a microbatch between chunks: [s, b, h], under sequence parallelism [s / tp, b,
  /// h].
  std::function<std::vector<int64_t>(int microbatch)> hidden_sizes;
  /// Their element type and device.
  at::TensorOptions hidden;
  /// Measures upstream's timers of micro-batches: forward-compute, backward-compute, and what goes between stages.
  Timers* timers = nullptr;
};

/// Runs all microbatches; gradients are added up in the parameters. What the model's last chunk returned, detached,
/// by microbatch; empty on other stages. `shape.stages` is the size of `stages`.
std::vector<at::Tensor> run_pipeline(const Group& stages, const PipelineShape& shape, const PipelineModel& model);

}  // namespace viaduct::parallel
