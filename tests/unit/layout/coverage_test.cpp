#include <gmock/gmock.h>

#include <map>

#include "tests/unit/layout/element_map.h"
#include "tests/unit/layout/random_expr.h"
#include "viaduct/layout/piece.h"
#include "viaduct/layout/split.h"

namespace viaduct::layout {
namespace {

using namespace testing;  // NOLINT: the test's own helpers

// The same counts, element by element.
Coverage counted(const Pieces& pieces, const std::vector<Shape>& shapes) {
  Coverage result;
  std::vector<Dense> hits;
  for (const Shape& shape : shapes) hits.emplace_back(shape, 0);
  for (const Piece& piece : pieces) {
    if (piece.is_drop()) continue;
    Dense& tensor = hits[static_cast<size_t>(piece.target)];
    for_each_index(piece.to.size, [&](const Shape& i) {
      const Shape at = index_in(piece.to, i);
      for (int axis = 0; axis < at.rank(); ++axis)
        if (at[axis] >= tensor.shape[axis]) {
          ++result.outside;
          return;
        }
      ++tensor.at(at);
    });
  }
  for (size_t t = 0; t < shapes.size(); ++t)
    for_each_index(shapes[t], [&](const Shape& i) {
      const int64_t hit = hits[t].at(i);
      if (hit == 0 && result.holes++ == 0) result.first_hole = fmt::format("tensor {} at {}", t, i);
      if (hit > 1 && result.doubles++ == 0) result.first_double = fmt::format("tensor {} at {}", t, i);
    });
  return result;
}

TEST(Coverage, CountsAreThoseOfSingleElements) {
  Random random(3);
  int exact = 0;
  for (int turn = 0; turn < 4000; ++turn) {
    std::vector<Shape> shapes;
    Pieces pieces;
    const int64_t tensors = pick(random, 1, 3);
    for (int32_t t = 0; t < tensors; ++t) {
      Shape shape;
      for (int64_t rank = pick(random, 0, 3); rank > 0; --rank) shape.push_back(pick(random, 1, 8));
      shapes.push_back(shape);
      const bool whole = pick(random, 0, 1) == 0;
      std::vector<Box> boxes{Box::whole(shape)};
      for (int64_t cuts = pick(random, 0, 5); cuts > 0; --cuts) {
        if (!whole) {
          boxes.push_back(random_box(random, shape));
          continue;
        }
        std::vector<Box> parts;
        const Box cut = random_box(random, shape);
        for (const Box& box : boxes) {
          if (const auto both = intersect(box, cut)) parts.push_back(*both);
          for (const Box& rest : subtract(box, cut)) parts.push_back(rest);
        }
        boxes = parts;
      }
      if (!whole && pick(random, 0, 2) == 0) boxes.erase(boxes.begin());
      for (Box box : boxes) {
        if (!whole && shape.rank() > 0 && pick(random, 0, 5) == 0) box.offset[0] += 3;
        pieces.push_back({kNoTensor, t, {}, box, {}});
      }
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    const Coverage found = check_targets(pieces, shapes), expected = counted(pieces, shapes);
    exact += found.exact();
    ASSERT_EQ(found.holes, expected.holes) << turn;
    ASSERT_EQ(found.doubles, expected.doubles) << turn;
    ASSERT_EQ(found.outside, expected.outside) << turn;
    ASSERT_EQ(found.first_hole, expected.first_hole) << turn;
    ASSERT_EQ(found.first_double, expected.first_double) << turn;
    ASSERT_EQ(found.malformed, 0);
  }
  EXPECT_GT(exact, 500);
}

TEST(Coverage, SourcesAreCountedLikeTargets) {
  const Expr weight = Expr::input("w", {6, 4});
  const Expr twice = Expr::concat(0, {weight.slice(0, 1, 3), weight.slice(0, 2, 2)});
  const Coverage coverage = check_sources(twice.pieces(), {{6, 4}});
  EXPECT_EQ(coverage.holes, 12);
  EXPECT_EQ(coverage.first_hole, "tensor 0 at [0, 0]");
  EXPECT_EQ(coverage.doubles, 8);
  EXPECT_EQ(coverage.first_double, "tensor 0 at [2, 0]");
  EXPECT_EQ(
      coverage.summary(),
      "12 elements not covered (first: tensor 0 at [0, 0]), 8 elements covered more than once (first: tensor 0 "
      "at [2, 0])");
}

// The pieces of a small model under a parallel layout, each changed in every way that a wrong rule might.
TEST(Coverage, PlantedFaultsAreFound) {
  std::vector<Expr> rules;
  const Expr q = Expr::input("q", {24, 10}), k = Expr::input("k", {12, 10}), v = Expr::input("v", {12, 10});
  rules.push_back(interleave_query_groups(q, k, v, 3));
  rules.push_back(Expr::concat(0, {Expr::input("gate", {14, 10}), Expr::input("up", {14, 10})}));
  rules.push_back(Expr::input("embedding", {30, 10}).pad(0, 32));
  rules.push_back(
      Expr::stack(0, {Expr::input("e0", {7, 5}).transpose({1, 0}), Expr::input("e1", {7, 5}).transpose({1, 0})}));
  rules.push_back(Expr::interleave(0, {Expr::input("even", {9}), Expr::input("odd", {9})}));
  Pieces good;
  std::vector<Shape> shapes;
  int32_t sources = 0;
  for (const Expr& rule : rules) {
    for (Piece piece : rule.pieces()) {
      if (!piece.is_fill()) piece.source += sources;
      piece.target = static_cast<int32_t>(shapes.size());
      good.push_back(piece);
    }
    sources += static_cast<int32_t>(rule.inputs().size());
    shapes.push_back(rule.shape());
  }
  ASSERT_TRUE(check_targets(good, shapes).exact());

  std::map<std::string, int> tried;
  const auto expect_found = [&](const std::string& fault, const Pieces& bad) {
    ++tried[fault];
    EXPECT_FALSE(check_targets(bad, shapes).exact()) << fault;
    EXPECT_NE(check_targets(bad, shapes).summary(), "every element once");
  };
  for (size_t i = 0; i < good.size(); ++i) {
    Pieces bad = good;
    bad.erase(bad.begin() + static_cast<std::ptrdiff_t>(i));
    expect_found("missing", bad);
    bad = good;
    bad.push_back(good[i]);
    expect_found("doubled", bad);
    for (int axis = 0; axis < good[i].to.rank(); ++axis) {
      bad = good;
      ++bad[i].to.offset[axis];
      expect_found("shifted up", bad);
      bad = good;
      --bad[i].to.offset[axis];
      expect_found("shifted down", bad);
      bad = good;
      ++bad[i].to.size[axis];
      expect_found("too long", bad);
      bad = good;
      if (--bad[i].to.size[axis] > 0) expect_found("too short", bad);
      bad = good;
      if (bad[i].to.size[axis] > 1) {
        ++bad[i].to.stride[axis];
        expect_found("strided", bad);
      }
      bad = good;
      if (!bad[i].is_fill() && bad[i].axes[axis] >= 0) {
        bad[i].axes[axis] = -1;
        expect_found("axis without partner", bad);
      }
    }
    bad = good;
    bad[i].target = (bad[i].target + 1) % static_cast<int32_t>(shapes.size());
    expect_found("other tensor", bad);
    bad[i].target = 99;
    expect_found("no such tensor", bad);
    for (size_t j = 0; j < i; ++j) {
      // Two pieces of equal size that changed places still cover everything: values alone can show that.
      if (good[i].is_fill() || good[j].is_fill() || good[i].to.size == good[j].to.size) continue;
      bad = good;
      std::swap(bad[i].to, bad[j].to);
      expect_found("swapped", bad);
    }
  }
  for (const char* fault : {"missing", "doubled", "shifted up", "shifted down", "too long", "too short", "strided",
                            "axis without partner", "other tensor", "no such tensor", "swapped"})
    EXPECT_GE(tried[fault], 10) << fault;
}

TEST(Coverage, ManyPiecesOfOneTensor) {
  // [layer, expert, row] in single rows of experts, and a grid cut along both axes.
  Pieces pieces;
  for (int64_t layer = 0; layer < 58; ++layer)
    for (int64_t expert = 0; expert < 256; ++expert)
      pieces.push_back({kNoTensor, 0, {}, Box::dense({layer, expert, 0}, {1, 1, 2048}), {}});
  for (int64_t i = 0; i < 100; ++i)
    for (int64_t j = 0; j < 100; ++j) pieces.push_back({kNoTensor, 1, {}, Box::dense({i * 7, j * 3}, {7, 3}), {}});
  const std::vector<Shape> shapes{{58, 256, 2048}, {700, 300}};
  EXPECT_TRUE(check_targets(pieces, shapes).exact());
  pieces[5000].to.offset[2] = 1;
  const Coverage coverage = check_targets(pieces, shapes);
  EXPECT_EQ(coverage.holes, 1);
  EXPECT_EQ(coverage.outside, 1);
}

// A hostile file may list any number of chunks, one across the other: no proof, but an answer.
TEST(Coverage, ChunksLaidCrosswiseAreRefused) {
  Random random(4);
  Pieces pieces;
  for (int i = 0; i < 30000; ++i) {
    const int64_t row = pick(random, 0, 50000), column = pick(random, 0, 50000);
    pieces.push_back({kNoTensor, 0, {}, Box::dense({row, column}, {49999, 49999}), {}});
  }
  const Coverage coverage = check_targets(pieces, {{100000, 100000}});
  EXPECT_FALSE(coverage.exact());
  EXPECT_THAT(coverage.first_malformed, ::testing::HasSubstr("tensor 0 is cut crosswise into 30000 boxes"));
}

TEST(Coverage, EmptyTensorsNeedNothing) {
  EXPECT_TRUE(check_targets({}, {{0, 4}}).exact());
  EXPECT_EQ(check_targets({}, {{}}).holes, 1);
  EXPECT_EQ(check_targets({}, {{3, 4}, {2}}).holes, 14);
}

}  // namespace
}  // namespace viaduct::layout
