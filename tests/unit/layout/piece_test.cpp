#include "viaduct/layout/piece.h"

#include <set>

#include "tests/unit/layout/element_map.h"
#include "tests/unit/layout/random_expr.h"

namespace viaduct::layout {
namespace {

using namespace testing;  // NOLINT: the test's own helpers

std::set<int64_t> elements(const Box& box, const Shape& shape) {
  std::set<int64_t> result;
  for_each_index(box.size, [&](const Shape& i) { result.insert(row_major_position(shape, index_in(box, i))); });
  return result;
}

TEST(Box, IntersectionHoldsTheCommonElements) {
  Random random(1);
  int empty = 0, strided = 0;
  for (int turn = 0; turn < 20000; ++turn) {
    const Shape shape = turn % 2 == 0 ? Shape{pick(random, 1, 60)} : Shape{pick(random, 1, 9), pick(random, 1, 9)};
    const Box a = random_box(random, shape), b = random_box(random, shape);
    std::set<int64_t> expected;
    const std::set<int64_t> in_a = elements(a, shape), in_b = elements(b, shape);
    std::set_intersection(in_a.begin(), in_a.end(), in_b.begin(), in_b.end(),
                          std::inserter(expected, expected.end()));
    const std::optional<Box> found = intersect(a, b);
    ASSERT_EQ(found.has_value(), !expected.empty()) << to_string(a) << to_string(b);
    if (!found) {
      ++empty;
      continue;
    }
    ASSERT_EQ(elements(*found, shape), expected) << to_string(a) << to_string(b) << to_string(*found);
    for (int axis = 0; axis < shape.rank(); ++axis) strided += found->stride[axis] > 4;
    ASSERT_EQ(*intersect(b, a), *found);
  }
  EXPECT_GT(empty, 1000);
  EXPECT_GT(strided, 100);
}

TEST(Box, IntersectionOfHugeBoxesDoesNotOverflow) {
  const int64_t huge = int64_t{1} << 61;
  const Box whole = Box::whole({huge});
  const Box comb{{3}, {huge / 1000003 - 1}, {1000003}};
  const Box other{{5}, {huge / 999983 - 1}, {999983}};
  EXPECT_EQ(*intersect(whole, comb), comb);
  const Box both = *intersect(comb, other);
  EXPECT_EQ(both.stride[0], int64_t{1000003} * 999983);
  EXPECT_EQ(both.offset[0] % 1000003, 3);
  EXPECT_EQ(both.offset[0] % 999983, 5);
  const Box far{{0}, {2}, {huge - 1}};
  EXPECT_EQ(intersect(far, Box{{1}, {2}, {huge - 2}})->offset[0], huge - 1);
  EXPECT_FALSE(intersect(far, Box{{1}, {2}, {huge - 3}}));
}

TEST(Box, EmptyBoxesHaveNothingInCommon) {
  EXPECT_FALSE(intersect(Box::whole({0, 4}), Box::whole({0, 4})));
  EXPECT_TRUE(intersect(Box::whole({}), Box::whole({})));
}

TEST(Box, SubtractionLeavesTheOtherElementsOnce) {
  Random random(2);
  for (int turn = 0; turn < 10000; ++turn) {
    const Shape shape = turn % 2 == 0 ? Shape{pick(random, 1, 40)} : Shape{pick(random, 1, 8), pick(random, 1, 8)};
    const Box a = random_box(random, shape), b = random_box(random, shape);
    const std::set<int64_t> in_a = elements(a, shape), in_b = elements(b, shape);
    std::set<int64_t> expected;
    std::set_difference(in_a.begin(), in_a.end(), in_b.begin(), in_b.end(),
                        std::inserter(expected, expected.end()));
    std::set<int64_t> found;
    size_t count = 0;
    for (const Box& part : subtract(a, b)) {
      count += static_cast<size_t>(num_elements(part.size));
      found.merge(elements(part, shape));
    }
    ASSERT_EQ(found, expected) << to_string(a) << to_string(b);
    ASSERT_EQ(count, expected.size());
  }
}

TEST(Box, ReadsLikeASlice) {
  EXPECT_EQ(to_string(Box{{0, 1}, {4, 3}, {1, 2}}), "[0:4, 1:6:2]");
  EXPECT_EQ(to_string(Piece{2, 0, Box::whole({4}), Box::dense({4}, {4}), AxisMap::identity(1)}),
            "tensor 2 [0:4] -> tensor 0 [4:8]");
}

TEST(Pieces, TheInverseOfTheInverseIsTheSame) {
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(5);
    const Pieces all = built.expr.pieces_with_drops();
    ASSERT_EQ(inverse(inverse(all)), all);
    const std::vector<Shape> sources = input_shapes(built.expr), targets{built.expr.shape()};
    ElementMap swapped;
    for (const auto& [source, from, target, to] : element_map(all, sources, targets))
      swapped.emplace_back(target, to, source, from);
    std::sort(swapped.begin(), swapped.end());
    ASSERT_EQ(element_map(inverse(all), targets, sources), swapped) << seed;
  }
}

TEST(Pieces, ThereAndBackIsTheIdentity) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(5);
    const std::vector<Shape> targets{built.expr.shape()};
    // Back and there again: every element of the result comes from itself; what was padded is padding again.
    const Pieces round = compose(inverse(built.expr.pieces()), built.expr.pieces());
    std::set<int64_t> padding;
    for (const auto& [source, from, target, to] :
         element_map(built.expr.pieces(), input_shapes(built.expr), targets))
      if (source == kNoTensor) padding.insert(to);
    std::set<int64_t> themselves;
    for (const auto& [source, from, target, to] : element_map(round, targets, targets)) {
      if (source == kNoTensor || target == kNoTensor)
        ASSERT_TRUE(padding.contains(std::max(from, to))) << seed;
      else if (from == to)
        themselves.insert(from);
    }
    ASSERT_EQ(static_cast<int64_t>(themselves.size() + padding.size()), num_elements(targets[0])) << seed;
  }
}

TEST(Pieces, RestrictingLeavesTheElementsInTheBox) {
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(4);
    const std::vector<Shape> sources = input_shapes(built.expr), targets{built.expr.shape()};
    const Pieces& all = built.expr.pieces();
    const Box box = random_box(maker.source_of_randomness(), targets[0]);
    const std::set<int64_t> inside = elements(box, targets[0]);
    ElementMap expected;
    for (const auto& entry : element_map(all, sources, targets))
      if (inside.contains(std::get<3>(entry))) expected.push_back(entry);
    Pieces restricted;
    for (const Piece& piece : all)
      if (const auto part = restrict_target(piece, box)) restricted.push_back(*part);
    ASSERT_EQ(element_map(restricted, sources, targets), expected) << seed;

    const Box source_box = random_box(maker.source_of_randomness(), sources[0]);
    const std::set<int64_t> read = elements(source_box, sources[0]);
    expected.clear();
    for (const auto& entry : element_map(all, sources, targets))
      if (std::get<0>(entry) == 0 && read.contains(std::get<1>(entry))) expected.push_back(entry);
    restricted.clear();
    for (const Piece& piece : all)
      if (piece.source == 0)
        if (const auto part = restrict_source(piece, source_box)) restricted.push_back(*part);
    ASSERT_EQ(element_map(restricted, sources, targets), expected) << seed;
  }
}

TEST(Pieces, RestrictingCommutesWithEvaluating) {
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(4);
    const Shape shape = built.expr.shape();
    const Box box = random_box(maker.source_of_randomness(), shape);
    Expr sliced = built.expr;
    for (int axis = 0; axis < shape.rank(); ++axis)
      sliced = sliced.slice(axis, box.offset[axis], box.size[axis], box.stride[axis]);
    const Piece cut{0, 0, box, Box::whole(box.size), AxisMap::identity(shape.rank())};
    Pieces restricted;
    for (const Piece& piece : built.expr.pieces())
      if (const auto part = restrict_target(piece, box)) restricted.push_back(*part);
    const std::vector<Shape> sources = input_shapes(built.expr), targets{box.size};
    ASSERT_EQ(element_map(compose(restricted, {cut}), sources, targets),
              element_map(sliced.pieces(), sources, targets))
        << seed;
  }
}

TEST(Pieces, ASimplerListSaysTheSame) {
  int simpler = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(4);
    const std::vector<Shape> sources = input_shapes(built.expr), targets{built.expr.shape()};
    // Cut at random places, then put together again.
    Pieces pieces = built.expr.pieces_with_drops();
    for (int cut = 0; cut < 4; ++cut) {
      const Box box = random_box(maker.source_of_randomness(), targets[0]);
      Pieces parts;
      for (const Piece& piece : pieces) {
        const auto inside = restrict_target(piece, box);
        if (!inside) {
          parts.push_back(piece);
          continue;
        }
        parts.push_back(*inside);
        for (const Box& rest : subtract(piece.to, box)) parts.push_back(*restrict_target(piece, rest));
      }
      pieces = parts;
    }
    std::shuffle(pieces.begin(), pieces.end(), maker.source_of_randomness());
    const Pieces simple = simplify(pieces);
    ASSERT_LE(simple.size(), pieces.size());
    simpler += simple.size() < pieces.size();
    ASSERT_EQ(element_map(simple, sources, targets), element_map(pieces, sources, targets)) << seed;
    ASSERT_EQ(simplify(simple), simple) << seed;
  }
  EXPECT_GT(simpler, 800);
}

// Random lists, not only exact ones: some pieces are left out, some doubled, with fills and drops.
Pieces damaged(Random& random, const Pieces& pieces) {
  Pieces result;
  for (const Piece& piece : pieces)
    for (int64_t copies = pick(random, 0, 5) == 0 ? pick(random, 0, 2) : 1; copies > 0; --copies)
      result.push_back(piece);
  return result;
}

TEST(Pieces, ComposingIsFollowingElements) {
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    ExprMaker maker(seed);
    Random& random = maker.source_of_randomness();
    const Built one = maker.random(3, 300);
    const Shape middle = one.value.shape;
    Built two = maker.input(middle);
    for (int i = 0; i < 2; ++i) two = maker.step(two);
    // The middle tensor is the second's first input in whatever place; other inputs get other ids.
    const auto& inputs = two.expr.inputs();
    const std::vector<Shape> sources = input_shapes(one.expr), middles = input_shapes(two.expr);
    int32_t place = 0;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].shape == middle) place = static_cast<int32_t>(i);
    Pieces first = one.expr.pieces_with_drops();
    for (Piece& piece : first)
      if (!piece.is_drop()) piece.target = place;
    first = damaged(random, first);
    const Pieces second = damaged(random, two.expr.pieces_with_drops());
    const std::vector<Shape> targets{two.expr.shape()};

    const ElementMap f = element_map(first, sources, middles), s = element_map(second, middles, targets);
    ElementMap expected;
    for (const auto& [source, from, target, to] : f) {
      if (target == kNoTensor)
        expected.emplace_back(source, from, target, to);
      else
        for (const auto& later : s)
          if (std::get<0>(later) == target && std::get<1>(later) == to &&
              !(source == kNoTensor && std::get<2>(later) == kNoTensor))
            expected.emplace_back(source, from, std::get<2>(later), std::get<3>(later));
    }
    for (const auto& later : s)
      if (std::get<0>(later) == kNoTensor) expected.push_back(later);
    std::sort(expected.begin(), expected.end());
    ASSERT_EQ(element_map(compose(first, second), sources, targets), expected) << seed;
  }
}

TEST(Pieces, ComposingIsAssociative) {
  for (uint64_t seed = 0; seed < 600; ++seed) {
    ExprMaker maker(seed);
    Random& random = maker.source_of_randomness();
    // Three lists through tensors of two shapes, among them inverses, which have drops where others have fills.
    std::vector<std::vector<Shape>> tensors;
    const Built one = maker.random(3, 200);
    const Built two = maker.step(Built{Expr::input("m", one.value.shape), one.value});
    Pieces first = damaged(random, one.expr.pieces_with_drops());
    Pieces second, third;
    for (Piece piece : damaged(random, two.expr.pieces_with_drops()))
      if (piece.is_fill() || two.expr.inputs()[static_cast<size_t>(piece.source)].name == "m") {
        if (!piece.is_fill()) piece.source = 0;
        second.push_back(piece);
      }
    third = damaged(random, inverse(second));
    const std::vector<Shape> sources = input_shapes(one.expr), targets{one.value.shape};
    ASSERT_EQ(element_map(compose(compose(first, second), third), sources, targets),
              element_map(compose(first, compose(second, third)), sources, targets))
        << seed;
  }
}

}  // namespace
}  // namespace viaduct::layout
