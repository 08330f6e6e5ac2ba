// Who sends what to whom: from one set of ranks that hold a model's parameters in shards to a rank of another set.
// Nothing here knows models, files or transports.
#pragma once

#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "viaduct/layout/piece.h"
#include "viaduct/layout/split.h"

namespace viaduct::layout {

/// What one rank holds of one parameter.
struct ShardedTensor {
  std::string name;    // the whole parameter's
  Shape global_shape;  // of the whole parameter
  Shape local_shape;   // of the rank's tensor
  Pieces pieces;  // from the whole parameter (source id 0) to the rank's tensor (target id 0); fills are padding
};

/// The tensor of rank `rank` of the `ranks` among which `split` cuts a parameter.
ShardedTensor shard_of(std::string name, const Shape& global_shape, const Split& split, int ranks, int rank);

/// All that one rank holds.
using RankTensors = std::vector<ShardedTensor>;

/// What one target rank receives.
struct RankPlan {
  /// A tensor of a source rank.
  struct Source {
    int32_t rank;    // in the list of source ranks
    int32_t tensor;  // in that rank's list of tensors
    friend bool operator==(const Source&, const Source&) = default;
  };
  std::vector<Source> sources;  // each once; Piece::source counts here
  Pieces pieces;                // Piece::target counts in the target rank's list of tensors
};

/// Plans for any number of target ranks against one set of source ranks, which must outlive it.
class Planner {
 public:
  /// Notes which ranks hold which parameter.
  explicit Planner(std::span<const RankTensors> sources);

  /// Every element of the target's tensors comes exactly once (proven before this returns), from one of the ranks
  /// that hold it: the choice is the same every time and spreads target ranks and tensors over the replicas.
  /// UserError when a parameter or a part of it is held nowhere or has another shape.
  RankPlan plan(const RankTensors& target, int target_rank) const;

 private:
  std::span<const RankTensors> sources_;
  std::unordered_map<std::string, std::vector<RankPlan::Source>> holders_;
};

/// The same for one target rank.
RankPlan plan(std::span<const RankTensors> sources, const RankTensors& target, int target_rank);

}  // namespace viaduct::layout
