// What each rank of a parallel layout holds of a model's parameters, and who sends what to whom when the layout
// changes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/layout/plan.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/topology/parallelism.h"
#include "viaduct/topology/rank_grid.h"

namespace viaduct::bridge {

/// The parameters of each rank, by global rank, in the order of the model's state dict. Names and whole shapes are
/// the model's own (models::megatron_parameters), the same for every layout; rows that pad the vocabulary are fills
/// of the rank's tensor. So the tensors of two layouts with other paddings can be planned against each other.
///
/// Layers are spread over pp * vpp model chunks, vpp chunks a rank (model_layout.h's pipeline_options). Embedding
/// and vision tower are on the first stage, final norm, multi-token prediction and output layer on the last; of
/// tied embeddings, and for multi-token prediction, the last stage holds a copy, under the embedding's name.
/// Experts are dealt out in runs over the expert-parallel ranks and cut among the expert-tensor-parallel ones,
/// other parameters among the tensor-parallel ones. All else (context and data parallel) are replicas.
///
/// UserError when the layout does not fit the model (model_layout.h) or its sizes do not fit each other.
std::vector<layout::RankTensors> rank_tensors(const models::ArchSpec& arch, const topology::Parallelism& parallel,
                                              topology::RankOrder order = topology::RankOrder::kPipelineLast);

/// A parameter as one rank has it.
struct RankParameter {
  int32_t parameter = 0;  // index into models::megatron_parameters(arch)
  int chunk = 0;          // which of the rank's vpp model chunks has it
  /// As the chunk's module calls it: layers count from the chunk's first, experts from the rank's first, and the
  /// last stage's copy of tied embeddings is its output layer's weight.
  std::string name;
  layout::ShardedTensor tensor;  // under the model's own name
};

/// What rank `rank` of the layout holds, in the order of the model's state dict. UserError as rank_tensors, and for
/// a rank that the layout does not have.
std::vector<RankParameter> rank_parameters(const models::ArchSpec& arch, const topology::Parallelism& parallel,
                                           int rank,
                                           topology::RankOrder order = topology::RankOrder::kPipelineLast);

/// What rank `target_rank` of layout `target` receives from the ranks of layout `source`: RankPlan::Source counts
/// in rank_tensors(arch, source), Piece::target in rank_tensors(arch, target)[target_rank]. For the plans of many
/// ranks make the tensors once and use layout::Planner.
layout::RankPlan plan(const models::ArchSpec& arch, const topology::Parallelism& source,
                      const topology::Parallelism& target, int target_rank);

}  // namespace viaduct::bridge
