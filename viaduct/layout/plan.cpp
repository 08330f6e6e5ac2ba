#include "viaduct/layout/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "viaduct/core/strings.h"

namespace viaduct::layout {

namespace {

std::string missing_parameter(const std::string& name, const std::vector<std::string>& known) {
  const std::optional<std::string> near = nearest(name, known);
  return near ? fmt::format(" (did you mean '{}'?)", *near) : std::string();
}

}  // namespace

ShardedTensor shard_of(std::string name, const Shape& global_shape, const Split& split, int ranks, int rank) {
  return {std::move(name), global_shape, shard_shape(split, global_shape, ranks),
          shard_pieces(split, global_shape, ranks, rank)};
}

Planner::Planner(std::span<const RankTensors> sources) : sources_(sources) {
  for (size_t rank = 0; rank < sources.size(); ++rank)
    for (size_t tensor = 0; tensor < sources[rank].size(); ++tensor)
      holders_[sources[rank][tensor].name].push_back({static_cast<int32_t>(rank), static_cast<int32_t>(tensor)});
}

RankPlan Planner::plan(const RankTensors& target, int target_rank) const {
  VIADUCT_CHECK(target_rank >= 0, "target rank {}", target_rank);
  RankPlan result;
  std::vector<Shape> shapes;
  for (size_t number = 0; number < target.size(); ++number) {
    const ShardedTensor& wanted = target[number];
    shapes.push_back(wanted.local_shape);
    const auto found = holders_.find(wanted.name);
    if (found == holders_.end()) {
      std::vector<std::string> known;
      for (const auto& [name, holders] : holders_) known.push_back(name);
      std::sort(known.begin(), known.end());
      VIADUCT_USER_CHECK(false, "target rank {} needs parameter '{}', which none of {} source ranks holds{}",
                         target_rank, wanted.name, sources_.size(), missing_parameter(wanted.name, known));
    }
    const std::vector<RankPlan::Source>& holders = found->second;

    // What is still to come, as pieces from the whole parameter to the target's tensor.
    Pieces missing;
    for (Piece piece : wanted.pieces) {
      piece.target = static_cast<int32_t>(number);
      if (piece.is_fill())
        result.pieces.push_back(piece);
      else if (!piece.is_drop())
        missing.push_back(piece);
    }
    const size_t first = (static_cast<size_t>(target_rank) + number) % holders.size();
    for (size_t turn = 0; turn < holders.size() && !missing.empty(); ++turn) {
      const RankPlan::Source& holder = holders[(first + turn) % holders.size()];
      const ShardedTensor& held = sources_[static_cast<size_t>(holder.rank)][static_cast<size_t>(holder.tensor)];
      VIADUCT_USER_CHECK(held.global_shape == wanted.global_shape,
                         "parameter '{}' has shape {} on source rank {} and shape {} on target rank {}",
                         wanted.name, held.global_shape, holder.rank, wanted.global_shape, target_rank);
      const auto source = static_cast<int32_t>(result.sources.size());
      bool is_used = false;
      for (const Piece& there : held.pieces) {
        if (there.is_fill() || there.is_drop()) continue;
        Pieces rest;
        for (const Piece& piece : missing) {
          const std::optional<Piece> here = restrict_source(piece, there.from);
          if (!here) {
            rest.push_back(piece);
            continue;
          }
          is_used = true;
          for (Piece& moved : compose({inverse(there)}, {*here})) {
            moved.source = source;
            result.pieces.push_back(moved);
          }
          for (const Box& box : subtract(piece.from, here->from)) rest.push_back(*restrict_source(piece, box));
        }
        missing = std::move(rest);
      }
      if (is_used) result.sources.push_back(holder);
    }
    VIADUCT_USER_CHECK(missing.empty(),
                       "target rank {} needs {} of parameter '{}', which none of {} source ranks holds",
                       target_rank, to_string(missing[0].from), wanted.name, sources_.size());
  }
  result.pieces = simplify(std::move(result.pieces));
  const Coverage coverage = check_targets(result.pieces, shapes);
  VIADUCT_CHECK(coverage.exact(), "the plan of target rank {} is not exact: {}", target_rank, coverage.summary());
  return result;
}

RankPlan plan(std::span<const RankTensors> sources, const RankTensors& target, int target_rank) {
  return Planner(sources).plan(target, target_rank);
}

}  // namespace viaduct::layout
