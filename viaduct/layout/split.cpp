#include "viaduct/layout/split.h"

#include <fmt/ranges.h>

#include <numeric>

namespace viaduct::layout {

namespace {

// The components' sizes, after the checks that concern all functions here.
std::vector<int64_t> checked_components(const Split& split, const Shape& shape, int ranks) {
  VIADUCT_USER_CHECK(ranks >= 1, "cutting a parameter of shape {} among {} ranks: at least one is needed", shape,
                     ranks);
  VIADUCT_CHECK(split.axis < shape.rank(), "split along axis {} of shape {}", split.axis, shape);
  if (split.components.empty()) {
    VIADUCT_USER_CHECK(
        shape[split.axis] % ranks == 0,
        "axis {} of a parameter of shape {} cannot be cut into {} equal parts: choose a parallel size "
        "that divides {}",
        split.axis, shape, ranks, shape[split.axis]);
    return {shape[split.axis]};
  }
  VIADUCT_CHECK_EQ(std::accumulate(split.components.begin(), split.components.end(), int64_t{0}), shape[split.axis],
                   "the components {} of axis {} of shape {}", fmt::join(split.components, ", "), split.axis,
                   shape);
  for (int64_t size : split.components)
    VIADUCT_USER_CHECK(
        size % ranks == 0,
        "axis {} of a parameter of shape {} has parts of {} rows; the one of {} cannot be cut into {} "
        "equal parts: choose a parallel size that divides each",
        split.axis, shape, fmt::join(split.components, ", "), size, ranks);
  return split.components;
}

}  // namespace

Shape shard_shape(const Split& split, const Shape& shape, int ranks) {
  if (split.is_replicated()) return shape;
  checked_components(split, shape, ranks);
  Shape result = shape;
  result[split.axis] /= ranks;
  return result;
}

std::vector<Box> shard_boxes(const Split& split, const Shape& shape, int ranks, int rank) {
  VIADUCT_CHECK(rank >= 0 && rank < ranks, "rank {} of {}", rank, ranks);
  if (split.is_replicated()) return {Box::whole(shape)};
  std::vector<Box> boxes;
  int64_t begin = 0;
  for (int64_t size : checked_components(split, shape, ranks)) {
    Box box = Box::whole(shape);
    box.offset[split.axis] = begin + size / ranks * rank;
    box.size[split.axis] = size / ranks;
    boxes.push_back(box);
    begin += size;
  }
  return boxes;
}

Pieces shard_pieces(const Split& split, const Shape& shape, int ranks, int rank) {
  Pieces pieces;
  int64_t begin = 0;
  for (const Box& box : shard_boxes(split, shape, ranks, rank)) {
    Piece piece{0, 0, box, Box::dense(Shape::filled(shape.rank(), 0), box.size), AxisMap::identity(shape.rank())};
    if (!split.is_replicated()) {
      piece.to.offset[split.axis] = begin;
      begin += box.size[split.axis];
    }
    if (num_elements(box.size) > 0) pieces.push_back(piece);
  }
  return simplify(std::move(pieces));
}

}  // namespace viaduct::layout
