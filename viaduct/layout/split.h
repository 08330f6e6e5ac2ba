// Split: how a Megatron parameter is cut among the ranks of one parallel group. One more step of the algebra.
#pragma once

#include <vector>

#include "viaduct/layout/piece.h"

namespace viaduct::layout {

/// Along which axis, and in which parts.
struct Split {
  int axis = -1;                    // -1: replicated, every rank holds the whole
  std::vector<int64_t> components;  // sizes of the parts along the axis that are each cut for themselves (gate,
                                    // up); empty: one part, the whole axis

  /// Every rank holds the whole.
  static Split replicated() { return {}; }
  /// Cut along `axis`, each of the components for itself.
  static Split along(int axis, std::vector<int64_t> components = {}) { return {axis, std::move(components)}; }
  /// Does every rank hold the whole?
  bool is_replicated() const { return axis < 0; }
  friend bool operator==(const Split&, const Split&) = default;
};

/// The shape that rank `rank` of `ranks` holds of a parameter of shape `shape`. UserError when `ranks` does not
/// divide a component's size.
Shape shard_shape(const Split& split, const Shape& shape, int ranks);

/// The boxes of the whole parameter that rank `rank` of `ranks` holds, in the order in which they lie along the
/// axis in the rank's own tensor: one box per component.
std::vector<Box> shard_boxes(const Split& split, const Shape& shape, int ranks, int rank);

/// Pieces from the whole parameter (source id 0) to the rank's tensor (target id 0).
Pieces shard_pieces(const Split& split, const Shape& shape, int ranks, int rank);

}  // namespace viaduct::layout
