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

// Among how many ranks a parameter is cut.
int ranks_of(const Parameter& parameter, const Parallelism& parallel) {
  return parameter.split.is_replicated() ? 1 : parameter.expert >= 0 ? parallel.etp : parallel.tp;
}

// Of one parameter, what the ranks at each index along the axis that cuts it hold; made once for all replicas.
std::vector<ShardedTensor> shards(const Parameter& parameter, const Parallelism& parallel) {
  const int ranks = ranks_of(parameter, parallel);
  std::vector<ShardedTensor> result;
  for (int rank = 0; rank < ranks; ++rank) result.push_back(shard(parameter, parallel, ranks, rank));
  return result;
}

// The model chunks of pipeline rank `pp` that have a parameter, each with whether it is there as the output layer
// of tied embeddings.
struct Home {
  int chunk = 0;
  bool output_copy = false;
};

std::vector<Home> homes(const Parameter& parameter, const ArchSpec& arch, const topology::Pipeline& pipeline,
                        int pp) {
  using Chunk = topology::Pipeline::Chunk;
  std::vector<Home> result;
  const auto add = [&](const Chunk& chunk, bool output_copy = false) {
    if (chunk.pp_rank == pp) result.push_back({chunk.chunk, output_copy});
  };
  switch (parameter.place) {
    case Place::kFirstStage: {
      const Chunk first = pipeline.embedding();
      add(first);
      // Multi-token prediction and the output layer of tied embeddings have the embedding once more.
      if (parameter.vocabulary && arch.mtp && !(*pipeline.mtp() == first)) add(*pipeline.mtp());
      if (parameter.vocabulary && arch.embedding.tied && !(pipeline.loss() == first)) add(pipeline.loss(), true);
      break;
    }
    case Place::kLayer: add(pipeline.place_of(parameter.layer).chunk); break;
    case Place::kLastStage: add(pipeline.loss()); break;
  }
  return result;
}

bool holds_expert(const Parameter& parameter, const ArchSpec& arch, const Parallelism& parallel, int ep) {
  if (parameter.expert < 0) return true;
  const int64_t experts = parameter.layer_in(arch)->moe->num_experts;
  return parameter.expert / (experts / parallel.ep) == ep;
}

int shard_index(const Parameter& parameter, const Coordinates& place) {
  return parameter.split.is_replicated() ? 0 : parameter.expert >= 0 ? place.etp : place.tp;
}

// The name in a chunk's module.
std::string local_name(const Parameter& parameter, const ArchSpec& arch, const Parallelism& parallel,
                       const topology::Pipeline& pipeline, const Home& home) {
  if (home.output_copy) return arch.language_module + "output_layer.weight";
  std::string name = parameter.name;
  if (parameter.place == Place::kLayer) {
    const std::string global = fmt::format("layers.{}.", parameter.layer);
    const size_t at = name.find(global);
    VIADUCT_CHECK(at != std::string::npos, "{} does not name its layer {}", name, parameter.layer);
    name.replace(at, global.size(), fmt::format("layers.{}.", pipeline.place_of(parameter.layer).index));
  }
  if (parameter.expert >= 0) {
    const int64_t experts = parameter.layer_in(arch)->moe->num_experts / parallel.ep;
    name.erase(name.find_last_not_of("0123456789") + 1);
    name += std::to_string(parameter.expert % experts);
  }
  return name;
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
      if (homes(parameter, arch, pipeline, place.pp).empty() || !holds_expert(parameter, arch, parallel, place.ep))
        continue;
      result[rank].push_back(parts[static_cast<size_t>(shard_index(parameter, place))]);
    }
  }
  return result;
}

std::vector<RankParameter> rank_parameters(const ArchSpec& arch, const Parallelism& parallel, int rank,
                                           topology::RankOrder order) {
  const topology::RankGrid grid(parallel, order);
  check_layout(arch, parallel);
  VIADUCT_USER_CHECK(rank >= 0 && rank < grid.world_size(), "rank {} of a layout with {} ranks", rank,
                     grid.world_size());
  const topology::Pipeline pipeline(pipeline_options(arch, parallel));
  const Coordinates place = grid.coordinates(rank);
  const std::vector<Parameter> parameters = models::megatron_parameters(arch);
  std::vector<RankParameter> result;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    if (!holds_expert(parameter, arch, parallel, place.ep)) continue;
    for (const Home& home : homes(parameter, arch, pipeline, place.pp))
      result.push_back({static_cast<int32_t>(i), home.chunk, local_name(parameter, arch, parallel, pipeline, home),
                        shard(parameter, parallel, ranks_of(parameter, parallel), shard_index(parameter, place))});
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
