#include "viaduct/bridge/rank_layout.h"

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/layout/expr.h"
#include "viaduct/models/parameters.h"
#include "viaduct/topology/pipeline.h"

namespace viaduct::bridge {

using layout::RankTensors;
using layout::ShardedTensor;
using models::ArchSpec;
using models::Parameter;
using models::Place;
using topology::Coordinates;
using topology::Parallelism;

namespace {

// The part of a parameter that rank `rank` of the `ranks` that cut it holds.
ShardedTensor shard(const Parameter& parameter, const Parallelism& parallel, int ranks, int rank) {
  const Shape padded = shape_in_layout(parameter, parallel);
  ShardedTensor tensor = layout::shard_of(parameter.name, padded, parameter.split, ranks, rank);
  if (padded == parameter.shape) return tensor;
  // Behind the model's rows come rows of padding, which are nobody's.
  const layout::Pieces pad = layout::Expr::input(parameter.name, parameter.shape).pad(0, padded[0]).pieces();
  tensor.pieces = layout::compose(pad, tensor.pieces);
  tensor.global_shape = parameter.shape;
  return tensor;
}

// Of one parameter, what the ranks at each index along the axis that cuts it hold; made once for all replicas.
std::vector<ShardedTensor> shards(const Parameter& parameter, const Parallelism& parallel) {
  const int ranks = parameter.split.is_replicated() ? 1 : parameter.expert >= 0 ? parallel.etp : parallel.tp;
  std::vector<ShardedTensor> result;
  for (int rank = 0; rank < ranks; ++rank) result.push_back(shard(parameter, parallel, ranks, rank));
  return result;
}

bool holds_stage(const Parameter& parameter, const ArchSpec& arch, const topology::Pipeline& pipeline, int pp) {
  switch (parameter.place) {
    case Place::kFirstStage:
      // The output layer of tied embeddings, and multi-token prediction, have the embedding once more.
      return pp == pipeline.embedding().pp_rank ||
             (parameter.vocabulary && arch.embedding.tied && pp == pipeline.loss().pp_rank) ||
             (parameter.vocabulary && arch.mtp && pp == pipeline.mtp().value().pp_rank);
    case Place::kLayer: return pp == pipeline.place_of(parameter.layer).chunk.pp_rank;
    case Place::kLastStage: return pp == pipeline.loss().pp_rank;
  }
  return false;
}

bool holds_expert(const Parameter& parameter, const ArchSpec& arch, const Parallelism& parallel, int ep) {
  if (parameter.expert < 0) return true;
  const int64_t experts = parameter.layer_in(arch)->moe->num_experts;
  return parameter.expert / (experts / parallel.ep) == ep;
}

}  // namespace

std::vector<RankTensors> rank_tensors(const ArchSpec& arch, const Parallelism& parallel,
                                      topology::RankOrder order) {
  const topology::RankGrid grid(parallel, order);
  check_layout(arch, parallel);
  const topology::Pipeline pipeline(pipeline_options(arch, parallel));
  std::vector<Coordinates> places;
  for (int rank = 0; rank < grid.world_size(); ++rank) places.push_back(grid.coordinates(rank));

  std::vector<RankTensors> result(places.size());
  for (const Parameter& parameter : models::megatron_parameters(arch)) {
    const std::vector<ShardedTensor> parts = shards(parameter, parallel);
    for (size_t rank = 0; rank < places.size(); ++rank) {
      const Coordinates& place = places[rank];
      if (!holds_stage(parameter, arch, pipeline, place.pp) || !holds_expert(parameter, arch, parallel, place.ep))
        continue;
      const int index = parts.size() == 1 ? 0 : parameter.expert >= 0 ? place.etp : place.tp;
      result[rank].push_back(parts[static_cast<size_t>(index)]);
    }
  }
  return result;
}

layout::RankPlan plan(const ArchSpec& arch, const Parallelism& source, const Parallelism& target, int target_rank) {
  const std::vector<RankTensors> sources = rank_tensors(arch, source), targets = rank_tensors(arch, target);
  VIADUCT_USER_CHECK(target_rank >= 0 && target_rank < static_cast<int>(targets.size()),
                     "rank {} of a layout with {} ranks", target_rank, targets.size());
  return layout::plan(sources, targets[static_cast<size_t>(target_rank)], target_rank);
}

}  // namespace viaduct::bridge
