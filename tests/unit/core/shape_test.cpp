#include "viaduct/core/shape.h"

#include <gtest/gtest.h>

namespace viaduct {
namespace {

TEST(Shape, CountsElements) {
  EXPECT_EQ(num_elements(Shape{}), 1);
  EXPECT_EQ(num_elements({2, 3, 4}), 24);
  // A zero anywhere, whatever overflows beside it.
  EXPECT_EQ(num_elements({int64_t{1} << 62, 4, 0}), 0);
  EXPECT_EQ(num_elements({0, int64_t{1} << 62, 4}), 0);
  EXPECT_THROW(num_elements({int64_t{1} << 62, 2}), UserError);
  EXPECT_THROW(num_elements({-1, -1}), UserError);
}

TEST(Shape, HoldsEightAxes) {
  Shape shape = Shape::filled(8, 2);
  EXPECT_EQ(num_elements(shape), 256);
  EXPECT_THROW(shape.push_back(1), UserError);
  const std::vector<int64_t> nine(9, 1);
  EXPECT_THROW(Shape{std::span<const int64_t>(nine)}, UserError);
  EXPECT_NE(Shape({1, 1}), Shape({1}));
  EXPECT_EQ(Shape({1, 2}).inserted(0, 7), Shape({7, 1, 2}));
  EXPECT_EQ(Shape({1, 2}).inserted(2, 7), Shape({1, 2, 7}));
}

TEST(Shape, CopiesAndMovesAtEveryRank) {
  for (int rank = 0; rank <= Shape::kMaxRank; ++rank) {
    Shape shape;
    for (int axis = 0; axis < rank; ++axis) shape.push_back(axis + 1);
    for (int other = 0; other <= Shape::kMaxRank; ++other) {
      Shape copy = Shape::filled(other, 9);
      copy = shape;
      EXPECT_EQ(copy, shape);
      if (rank > 0) copy[rank - 1] = 7;
      EXPECT_EQ(shape.rank() ? shape[rank - 1] : 0, rank);  // a copy has values of its own
      Shape moved = Shape::filled(other, 9);
      Shape from = shape;
      moved = std::move(from);
      EXPECT_EQ(moved, shape);
      from = moved;  // what was moved from can be given a value again
      EXPECT_EQ(from, shape);
    }
  }
}

TEST(Shape, RowMajorStrides) {
  EXPECT_EQ(row_major_strides({2, 3, 4}), Shape({12, 4, 1}));
  EXPECT_EQ(row_major_strides({2, 0, 4}), Shape({4, 4, 1}));  // as numpy counts an empty axis
  EXPECT_EQ(row_major_strides({}), Shape{});
  EXPECT_EQ(to_string(Shape{2, 3}), "[2, 3]");
  EXPECT_EQ(to_string(Shape{}), "[]");
}

}  // namespace
}  // namespace viaduct
