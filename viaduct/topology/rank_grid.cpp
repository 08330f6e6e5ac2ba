#include "viaduct/topology/rank_grid.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::topology {

namespace {

int& member(Coordinates& place, Axis axis) {
  switch (axis) {
    case Axis::kTp: return place.tp;
    case Axis::kCp: return place.cp;
    case Axis::kDp: return place.dp;
    case Axis::kPp: return place.pp;
    case Axis::kEtp: return place.etp;
    case Axis::kEp: return place.ep;
    case Axis::kEdp: return place.edp;
  }
  VIADUCT_CHECK(false, "axis {}", static_cast<int>(axis));
}

bool contains(std::initializer_list<Axis> axes, Axis axis) {
  return std::find(axes.begin(), axes.end(), axis) != axes.end();
}

}  // namespace

RankGrid::RankGrid(const Parallelism& parallelism, RankOrder order) {
  const int edp = parallelism.expert_data_parallel_size();
  world_size_ = parallelism.world_size();
  sizes_ = {parallelism.tp, parallelism.cp, parallelism.dp, parallelism.pp, parallelism.etp, parallelism.ep, edp};
  VIADUCT_USER_CHECK(
      order == RankOrder::kPipelineLast || parallelism.pp == 1 || edp == parallelism.dp,
      "use_tp_pp_dp_mapping with pipeline_model_parallel_size {} wants the expert layers' data-parallel "
      "size ({}) to be the dense layers' ({})",
      parallelism.pp, edp, parallelism.dp);
  const bool pipeline_last = order == RankOrder::kPipelineLast;
  const auto lay_out = [&](std::array<Axis, 4> axes) {
    if (!pipeline_last) std::swap(axes[2], axes[3]);
    Steps steps{};
    int stride = 1;
    for (size_t i = 0; i < axes.size(); ++i) {
      steps[i] = {axes[i], size(axes[i]), stride};
      stride *= steps[i].size;
    }
    return steps;
  };
  dense_ = lay_out({Axis::kTp, Axis::kCp, Axis::kDp, Axis::kPp});
  expert_ = lay_out({Axis::kEtp, Axis::kEp, Axis::kEdp, Axis::kPp});
}

Coordinates RankGrid::coordinates(int rank) const {
  VIADUCT_CHECK(rank >= 0 && rank < world_size_, "rank {} of {}", rank, world_size_);
  Coordinates place{};
  for (const Steps* steps : {&expert_, &dense_})
    for (const Step& step : *steps) member(place, step.axis) = rank / step.stride % step.size;
  return place;
}

int RankGrid::rank_at(const Steps& steps, const Coordinates& place) {
  int rank = 0;
  for (const Step& step : steps) {
    Coordinates copy = place;
    const int index = member(copy, step.axis);
    VIADUCT_CHECK(index >= 0 && index < step.size, "index {} of {} on axis {}", index, step.size,
                  static_cast<int>(step.axis));
    rank += index * step.stride;
  }
  return rank;
}

int RankGrid::dense_rank(const Coordinates& place) const { return rank_at(dense_, place); }
int RankGrid::expert_rank(const Coordinates& place) const { return rank_at(expert_, place); }

const RankGrid::Steps& RankGrid::steps_for(std::initializer_list<Axis> axes) const {
  bool dense = true, expert = true;
  for (Axis axis : axes) {
    const auto names = [axis](const Step& step) { return step.axis == axis; };
    dense = dense && std::any_of(dense_.begin(), dense_.end(), names);
    expert = expert && std::any_of(expert_.begin(), expert_.end(), names);
  }
  VIADUCT_CHECK(dense || expert, "a group along axes of the dense and of the expert layers");
  return dense ? dense_ : expert_;
}

std::vector<std::vector<int>> RankGrid::groups(std::initializer_list<Axis> axes) const {
  const Steps& steps = steps_for(axes);
  std::vector<std::vector<int>> result;
  for (int rank = 0; rank < world_size_; ++rank) {
    // A group is listed where its first rank is met, the one with index 0 along all of its axes.
    const bool is_first = std::all_of(steps.begin(), steps.end(), [&](const Step& step) {
      return !contains(axes, step.axis) || rank / step.stride % step.size == 0;
    });
    if (is_first) result.push_back(group_of(rank, axes));
  }
  return result;
}

std::vector<int> RankGrid::group_of(int rank, std::initializer_list<Axis> axes) const {
  VIADUCT_CHECK(rank >= 0 && rank < world_size_, "rank {} of {}", rank, world_size_);
  std::vector<int> group{rank};
  for (const Step& step : steps_for(axes)) {
    if (!contains(axes, step.axis)) continue;
    std::vector<int> larger;
    for (int index = 0; index < step.size; ++index)
      for (int member : group) larger.push_back(member + (index - rank / step.stride % step.size) * step.stride);
    group = std::move(larger);
  }
  return group;
}

}  // namespace viaduct::topology
