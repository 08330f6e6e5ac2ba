// What a list of pieces says, element by element.
#pragma once

#include <algorithm>
#include <tuple>

#include "tests/unit/layout/dense.h"

namespace viaduct::layout::testing {

// (source, element of it, target, element of it); -1, -1 on the side that a fill or a drop lacks.
using ElementMap = std::vector<std::tuple<int32_t, int64_t, int32_t, int64_t>>;

inline ElementMap element_map(const Pieces& pieces, const std::vector<Shape>& sources,
                              const std::vector<Shape>& targets) {
  ElementMap map;
  for (const Piece& piece : pieces) {
    const Shape& size = piece.is_drop() ? piece.from.size : piece.to.size;
    for_each_index(size, [&](const Shape& i) {
      int64_t from = -1, to = -1;
      if (piece.is_drop()) {
        from = row_major_position(sources.at(static_cast<size_t>(piece.source)), index_in(piece.from, i));
      } else {
        to = row_major_position(targets.at(static_cast<size_t>(piece.target)), index_in(piece.to, i));
        if (!piece.is_fill()) {
          Shape j = Shape::filled(piece.from.rank(), 0);
          for (int axis = 0; axis < i.rank(); ++axis)
            if (piece.axes[axis] >= 0) j[piece.axes[axis]] = i[axis];
          from = row_major_position(sources.at(static_cast<size_t>(piece.source)), index_in(piece.from, j));
        }
      }
      map.emplace_back(piece.source, from, piece.target, to);
    });
  }
  std::sort(map.begin(), map.end());
  return map;
}

inline Box random_box(Random& random, const Shape& shape) {
  Box box = Box::whole(shape);
  for (int axis = 0; axis < shape.rank(); ++axis) {
    box.offset[axis] = pick(random, 0, shape[axis] - 1);
    box.stride[axis] = pick(random, 1, 4);
    box.size[axis] = pick(random, 1, (shape[axis] - 1 - box.offset[axis]) / box.stride[axis] + 1);
  }
  return box;
}

}  // namespace viaduct::layout::testing
