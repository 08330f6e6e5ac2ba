// The plainest possible tensors: every step one element at a time by its index formula, against which pieces are
// held.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <vector>

#include "viaduct/layout/piece.h"

namespace viaduct::layout::testing {

using Random = std::mt19937_64;

inline int64_t pick(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Calls `visit` with every index of a tensor of `shape`, row-major.
inline void for_each_index(const Shape& shape, const std::function<void(const Shape&)>& visit) {
  const int64_t count = num_elements(shape);
  Shape index = Shape::filled(shape.rank(), 0);
  for (int64_t i = 0; i < count; ++i) {
    visit(index);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
  }
}

inline int64_t row_major_position(const Shape& shape, const Shape& index) {
  int64_t result = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (index[axis] < 0 || index[axis] >= shape[axis])
      ADD_FAILURE() << to_string(index) << " is not in " << to_string(shape);
    result = result * shape[axis] + index[axis];
  }
  return result;
}

struct Dense {
  Shape shape;
  std::vector<int64_t> values;

  explicit Dense(Shape s, int64_t value = 0) : shape(s), values(static_cast<size_t>(num_elements(s)), value) {}
  // Values first, first + 1, ... so that every element of a test is another.
  static Dense counted(Shape shape, int64_t first) {
    Dense result(shape);
    for (int64_t& value : result.values) value = first++;
    return result;
  }
  // The tensor whose element at an index is `at(index)`.
  static Dense made(Shape shape, const std::function<int64_t(const Shape&)>& at) {
    Dense result(shape);
    for_each_index(shape, [&](const Shape& index) { result.at(index) = at(index); });
    return result;
  }
  int64_t position(const Shape& index) const { return row_major_position(shape, index); }
  int64_t& at(const Shape& index) { return values.at(static_cast<size_t>(position(index))); }
  int64_t at(const Shape& index) const { return values.at(static_cast<size_t>(position(index))); }
  friend bool operator==(const Dense&, const Dense&) = default;
};

inline Shape index_in(const Box& box, const Shape& i) {
  Shape result;
  for (int axis = 0; axis < box.rank(); ++axis) result.push_back(box.offset[axis] + i[axis] * box.stride[axis]);
  return result;
}

// Moves elements one by one as the pieces say. Every element must be written exactly once.
inline std::vector<Dense> moved(const Pieces& pieces, const std::vector<Dense>& sources,
                                const std::vector<Shape>& target_shapes) {
  std::vector<Dense> targets;
  std::vector<Dense> written;
  for (const Shape& shape : target_shapes) {
    targets.emplace_back(shape, -1);
    written.emplace_back(shape, 0);
  }
  for (const Piece& piece : pieces) {
    if (piece.is_drop()) continue;
    const auto target = static_cast<size_t>(piece.target);
    for_each_index(piece.to.size, [&](const Shape& i) {
      const Shape to = index_in(piece.to, i);
      int64_t value = 0;
      if (!piece.is_fill()) {
        Shape j = Shape::filled(piece.from.rank(), 0);
        for (int axis = 0; axis < i.rank(); ++axis) {
          if (piece.axes[axis] >= 0)
            j[piece.axes[axis]] = i[axis];
          else
            EXPECT_EQ(piece.to.size[axis], 1);
        }
        value = sources.at(static_cast<size_t>(piece.source)).at(index_in(piece.from, j));
      }
      targets.at(target).at(to) = value;
      ++written.at(target).at(to);
    });
  }
  for (const Dense& counts : written)
    for (int64_t count : counts.values) {
      EXPECT_EQ(count, 1);
      if (count != 1) return targets;
    }
  return targets;
}

}  // namespace viaduct::layout::testing
