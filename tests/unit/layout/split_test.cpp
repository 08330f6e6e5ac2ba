#include "viaduct/layout/split.h"

#include <gmock/gmock.h>

#include "tests/unit/layout/dense.h"

namespace viaduct::layout {
namespace {

using namespace testing;  // NOLINT: the test's own helpers
using ::testing::HasSubstr;

Shape random_shape(Random& random, int ranks, Split& split) {
  Shape shape;
  for (int64_t rank = pick(random, 1, 3); rank > 0; --rank) shape.push_back(pick(random, 1, 7));
  split = Split::replicated();
  if (pick(random, 0, 4) == 0) return shape;
  split.axis = static_cast<int>(pick(random, 0, shape.rank() - 1));
  if (pick(random, 0, 1) == 0) {
    shape[split.axis] *= ranks;
    return shape;
  }
  shape[split.axis] = 0;
  for (int64_t parts = pick(random, 1, 5); parts > 0; --parts) {
    split.components.push_back(pick(random, 0, 4) * ranks);
    shape[split.axis] += split.components.back();
  }
  return shape;
}

// Rank r's tensor is the r-th of the equal chunks of every component, one component behind the other.
TEST(Split, ShardsAreTheChunksOfEveryComponent) {
  Random random(5);
  for (int turn = 0; turn < 2000; ++turn) {
    const int ranks = static_cast<int>(pick(random, 1, 6));
    Split split;
    const Shape shape = random_shape(random, ranks, split);
    const Dense whole = Dense::counted(shape, 1);
    int64_t elements = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      Shape expected_shape = shape;
      if (!split.is_replicated()) expected_shape[split.axis] /= ranks;
      ASSERT_EQ(shard_shape(split, shape, ranks), expected_shape);
      const Dense expected = Dense::made(expected_shape, [&](Shape i) {
        if (split.is_replicated()) return whole.at(i);
        const std::vector<int64_t> components =
            split.components.empty() ? std::vector<int64_t>{shape[split.axis]} : split.components;
        int64_t begin = 0;
        for (int64_t size : components) {
          if (i[split.axis] < size / ranks) {
            i[split.axis] += begin + size / ranks * rank;
            return whole.at(i);
          }
          i[split.axis] -= size / ranks;
          begin += size;
        }
        return int64_t{-2};
      });
      const Pieces pieces = shard_pieces(split, shape, ranks, rank);
      ASSERT_EQ(moved(pieces, {whole}, {expected_shape})[0], expected) << turn;
      ASSERT_TRUE(check_targets(pieces, {expected_shape}).exact());
      for (const Piece& piece : pieces) elements += num_elements(piece.from.size);
      const size_t boxes = split.components.empty() ? 1 : split.components.size();
      ASSERT_EQ(shard_boxes(split, shape, ranks, rank).size(), boxes);
    }
    ASSERT_EQ(elements, num_elements(shape) * (split.is_replicated() ? ranks : 1));
  }
}

// All ranks together hold every element once, or as often as there are ranks when it is replicated.
TEST(Split, AllRanksTogetherHoldEverything) {
  const Split gated = Split::along(0, {10, 10});
  Pieces all;
  for (int rank = 0; rank < 5; ++rank)
    for (Piece piece : shard_pieces(gated, {20, 3}, 5, rank)) all.push_back(piece);
  EXPECT_TRUE(check_sources(all, {{20, 3}}).exact());
  all.clear();
  for (int rank = 0; rank < 3; ++rank)
    for (const Piece& piece : shard_pieces(Split::replicated(), {4}, 3, rank)) all.push_back(piece);
  EXPECT_EQ(check_sources(all, {{4}}).doubles, 4);
}

TEST(Split, OneRankHoldsOnePiece) { EXPECT_EQ(shard_pieces(Split::along(0, {6, 6, 2}), {14, 3}, 1, 0).size(), 1u); }

TEST(Split, ErrorsNameShapeAndSizes) {
  const auto message = [](const Split& split, int ranks) {
    try {
      shard_shape(split, {12, 5}, ranks);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(message(Split::along(1), 2),
              AllOf(HasSubstr("axis 1"), HasSubstr("[12, 5]"), HasSubstr("2 equal parts")));
  EXPECT_THAT(message(Split::along(0, {8, 4}), 8), AllOf(HasSubstr("8, 4"), HasSubstr("the one of 4")));
  EXPECT_THAT(message(Split::along(0, {8, 3}), 1), HasSubstr("components"));
  EXPECT_THAT(message(Split::along(2), 1), HasSubstr("axis 2"));
  EXPECT_THAT(message(Split::along(0), 0), HasSubstr("0 ranks"));
  EXPECT_THROW(shard_shape(Split::along(1), {12, 5}, 2), UserError);
}

}  // namespace
}  // namespace viaduct::layout
