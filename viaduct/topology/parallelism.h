// Parallelism: the sizes of a parallel layout.
#pragma once

#include <cstdint>

#include "viaduct/topology/pipeline.h"

namespace viaduct::topology {

/// Sizes of the parallel groups, upstream's names shortened: tensor, pipeline, virtual pipeline (model chunks a
/// stage), context, expert, expert-tensor and data parallel.
struct Parallelism {
  int tp = 1;
  int pp = 1;
  int vpp = 1;
  int cp = 1;
  int ep = 1;
  int etp = 1;
  int dp = 1;
  /// How layers are spread over the stages, where a model's fields say so.
  PipelineSplit split = {};

  /// UserError naming the size that is not 1 or more, or vpp > 1 without pp > 1.
  void validate() const;

  /// Number of ranks: tp * cp * dp * pp. UserError when that is absurd.
  int world_size() const;
  /// Ranks that hold the same experts: world size / (etp * ep * pp). UserError when that is no whole number.
  int expert_data_parallel_size() const;
  /// The same with the dp that fills `world_size` ranks. UserError when none does, for the dense or the expert
  /// layers.
  Parallelism with_world_size(int world_size) const;

  friend bool operator==(const Parallelism&, const Parallelism&) = default;
};

}  // namespace viaduct::topology
