#include "viaduct/parallel/mesh.h"

#include <initializer_list>

namespace viaduct::parallel {

using topology::Axis;

Mesh::Mesh() : place_(topology::RankGrid(sizes_).coordinates(0)) {}

Mesh::Mesh(const topology::Parallelism& sizes, const topology::RankGrid& grid, int rank, const MakeGroup& make)
    : sizes_(sizes), place_(grid.coordinates(rank)) {
  const auto along = [&](const char* name, std::initializer_list<Axis> axes) {
    return make(name, grid.group_of(rank, axes));
  };
  world = along("world", {Axis::kTp, Axis::kCp, Axis::kDp, Axis::kPp});
  tp = along("tensor parallel", {Axis::kTp});
  pp = along("pipeline parallel", {Axis::kPp});
  cp = along("context parallel", {Axis::kCp});
  dp = along("data parallel", {Axis::kDp});
  dp_cp = along("data and context parallel", {Axis::kDp, Axis::kCp});
  ep = along("expert parallel", {Axis::kEp});
  etp = along("expert tensor parallel", {Axis::kEtp});
  edp = along("expert data parallel", {Axis::kEdp});
  etp_ep = along("expert tensor and expert parallel", {Axis::kEtp, Axis::kEp});
  tp_dp_cp = along("pipeline stage", {Axis::kTp, Axis::kDp, Axis::kCp});
  model = along("model parallel", {Axis::kTp, Axis::kPp});
  // Upstream's embedding group: the first and the last stage.
  const std::vector<int>& stages = pp.global_ranks();
  const bool at_end = rank == stages.front() || rank == stages.back();
  embedding = make("embedding", at_end && stages.size() > 1 ? std::vector<int>{stages.front(), stages.back()}
                                                            : std::vector<int>{rank});
}

}  // namespace viaduct::parallel
