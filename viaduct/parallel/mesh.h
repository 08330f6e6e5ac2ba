// Mesh: this process' place in a parallel layout and the groups that it is a member of.
#pragma once

#include <functional>
#include <vector>

#include "viaduct/parallel/group.h"
#include "viaduct/topology/parallelism.h"
#include "viaduct/topology/rank_grid.h"

namespace viaduct::parallel {

/// The groups of one rank. Groups along which the layout has size 1 are alone.
class Mesh {
 public:
  /// One process, every size 1.
  Mesh();
  /// Makes the group of these global ranks (ascending, this one among them), or one that is alone.
  using MakeGroup = std::function<Group(const char* name, std::vector<int> ranks)>;
  /// Rank `rank` of a layout of these sizes. `make` is called for all groups, in the same order on every rank.
  Mesh(const topology::Parallelism& sizes, const topology::RankGrid& grid, int rank, const MakeGroup& make);

  /// The layout, and where this process is in it.
  const topology::Parallelism& sizes() const { return sizes_; }
  const topology::Coordinates& place() const { return place_; }
  /// This process' global rank.
  int rank() const { return world.global_rank(world.rank()); }
  /// Is this the first pipeline stage?
  bool first_stage() const { return pp.rank() == 0; }
  /// Is this the last one?
  bool last_stage() const { return pp.rank() == pp.size() - 1; }

  Group world;
  Group tp;         // tensor (and sequence) parallel
  Group pp;         // pipeline stages, first to last
  Group cp;         // context parallel
  Group dp;         // replicas of the dense layers with other data
  Group dp_cp;      // those that reduce dense gradients
  Group ep;         // experts are dealt out among them
  Group etp;        // tensor parallel inside an expert
  Group edp;        // replicas of the same experts
  Group etp_ep;     // tokens are dispatched among them
  Group tp_dp_cp;   // everybody of one pipeline stage
  Group model;      // tp x pp: those that hold one replica of the model
  Group embedding;  // the first and the last stage, which share a tied embedding; alone elsewhere

 private:
  topology::Parallelism sizes_;
  topology::Coordinates place_{};
};

}  // namespace viaduct::parallel
