// RankGrid: which rank is where in a parallel layout, and which ranks form a group.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <vector>

#include "viaduct/topology/parallelism.h"

namespace viaduct::topology {

/// The axes along which ranks are told apart. Attention and dense MLP layers see the ranks as tp x cp x dp x pp,
/// expert layers the same ranks as etp x ep x edp x pp.
enum class Axis { kTp, kCp, kDp, kPp, kEtp, kEp, kEdp };

/// Which axis runs fastest from rank to rank: upstream's "tp-cp-ep-dp-pp", or "tp-cp-ep-pp-dp"
/// (use_tp_pp_dp_mapping).
enum class RankOrder { kPipelineLast, kDataLast };

/// A rank's place on every axis.
struct Coordinates {
  int tp, cp, dp, pp;
  int etp, ep, edp;
  friend bool operator==(const Coordinates&, const Coordinates&) = default;
};

/// The ranks of a layout, numbered from 0.
class RankGrid {
 public:
  /// UserError when the sizes do not fit each other (see Parallelism), or when with kDataLast and several stages
  /// the expert layers' data-parallel size is not the dense layers', so that a rank would be in two pipeline
  /// stages.
  explicit RankGrid(const Parallelism& parallelism, RankOrder order = RankOrder::kPipelineLast);

  /// The number of ranks.
  int world_size() const { return world_size_; }
  /// The number of ranks along an axis.
  int size(Axis axis) const { return sizes_[static_cast<size_t>(axis)]; }

  /// The place of a rank on both grids; `rank` is below world_size().
  Coordinates coordinates(int rank) const;

  /// The rank at a place of the dense layers' grid (its tp, cp, dp, pp), or of the expert layers' (etp, ep, edp,
  /// pp).
  int dense_rank(const Coordinates& place) const;
  int expert_rank(const Coordinates& place) const;

  /// All groups of ranks that differ only along `axes`, ascending as upstream lists them: {kTp} are the
  /// tensor-parallel groups, {kDp, kCp} those that reduce dense gradients, {kTp, kPp} the model-parallel ones,
  /// {kEtp, kEp} expert tensor and model parallel. InternalError for a mixture of dense and expert axes.
  std::vector<std::vector<int>> groups(std::initializer_list<Axis> axes) const;
  /// The one of them in which `rank` is.
  std::vector<int> group_of(int rank, std::initializer_list<Axis> axes) const;

 private:
  struct Step {
    Axis axis;
    int size;
    int stride;  // ranks from one index to the next
  };
  using Steps = std::array<Step, 4>;
  const Steps& steps_for(std::initializer_list<Axis> axes) const;
  static int rank_at(const Steps& steps, const Coordinates& place);

  int world_size_;
  std::array<int, 7> sizes_;
  Steps dense_;  // fastest first
  Steps expert_;
};

}  // namespace viaduct::topology
