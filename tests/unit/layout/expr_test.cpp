#include "viaduct/layout/expr.h"

#include <gmock/gmock.h>

#include "tests/unit/layout/random_expr.h"

namespace viaduct::layout {
namespace {

using namespace testing;  // NOLINT: the test's own helpers
using ::testing::HasSubstr;

// Every expression, evaluated by pieces, is the same as element by element; every element once, whatever the steps.
TEST(Expr, RandomExpressionsEqualTheirIndexFormulas) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(static_cast<int>(seed % 7) + 1);
    ASSERT_EQ(built.expr.shape(), built.value.shape) << seed;
    const Pieces& pieces = built.expr.pieces();
    ASSERT_TRUE(check_targets(pieces, {built.value.shape}).exact()) << seed;
    ASSERT_EQ(moved(pieces, maker.values(built.expr), {built.value.shape})[0], built.value) << seed;
  }
}

// With the drops every element of every input is accounted for, and no drop is read by a piece.
TEST(Expr, DropsAreWhatNoPieceReads) {
  int with_drops = 0;
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(5);
    const Pieces all = built.expr.pieces_with_drops();
    std::vector<Dense> reads, dropped;
    for (const Shape& shape : input_shapes(built.expr)) {
      reads.emplace_back(shape, 0);
      dropped.emplace_back(shape, 0);
    }
    for (const Piece& piece : all) {
      if (piece.is_fill()) continue;
      auto& where = (piece.is_drop() ? dropped : reads)[static_cast<size_t>(piece.source)];
      for_each_index(piece.from.size, [&](const Shape& i) { ++where.at(index_in(piece.from, i)); });
      with_drops += piece.is_drop();
    }
    for (size_t t = 0; t < reads.size(); ++t)
      for (size_t i = 0; i < reads[t].values.size(); ++i)
        ASSERT_EQ(dropped[t].values[i], reads[t].values[i] == 0 ? 1 : 0) << seed;
    ASSERT_EQ(check_sources(all, input_shapes(built.expr)).holes, 0);
  }
  EXPECT_GT(with_drops, 500);
}

TEST(Expr, AReshapeThatIsUndoneIsOnePiece) {
  const Expr weight = Expr::input("w", {128, 96});
  EXPECT_EQ(weight.reshape({8, 16, 96}).pieces().size(), 8u);
  EXPECT_EQ(weight.reshape({8, 16, 96}).reshape({128, 96}).pieces().size(), 1u);
  EXPECT_EQ(weight.reshape({8, 16, 2, 48}).reshape({128, 96}).pieces(), weight.pieces());
  EXPECT_EQ(weight.reshape({128 * 96}).reshape({128, 96}).pieces(), weight.pieces());
  EXPECT_EQ(weight.reshape({96, 128}).reshape({128, 96}).pieces(), weight.pieces());
  EXPECT_EQ(weight.transpose({1, 0}).transpose({1, 0}).pieces(), weight.pieces());
}

TEST(Expr, PartsPutTogetherAgainAreOnePiece) {
  const Expr weight = Expr::input("w", {12, 10, 4});
  for (int axis : {0, 1, 2}) {
    std::vector<Expr> halves{weight.slice(axis, 0, 3), weight.slice(axis, 3, weight.shape()[axis] - 3)};
    EXPECT_EQ(Expr::concat(axis, halves).pieces(), weight.pieces());
    const int64_t half = weight.shape()[axis] / 2;
    std::vector<Expr> turns{weight.slice(axis, 0, half, 2), weight.slice(axis, 1, half, 2)};
    EXPECT_EQ(Expr::interleave(axis, turns).pieces(), weight.pieces());
    EXPECT_EQ(Expr::concat(axis, turns).pieces().size(), 2u);
  }
}

TEST(Expr, SingleRowsGatherInStridedPieces) {
  const Expr weight = Expr::input("w", {64, 5});
  std::vector<Expr> even_rows, all_rows;
  for (int64_t row = 0; row < 64; row += 2) even_rows.push_back(weight.slice(0, row, 1));
  EXPECT_EQ(Expr::concat(0, even_rows).pieces().size(), 1u);
  for (int64_t row = 0; row < 32; ++row) {
    all_rows.push_back(weight.slice(0, row, 1));
    all_rows.push_back(weight.slice(0, 32 + row, 1));
  }
  EXPECT_EQ(Expr::concat(0, all_rows).pieces().size(), 2u);
}

TEST(Expr, QueryGroupsTakeThreePiecesEach) {
  const Expr q = Expr::input("q", {128 * 128, 64}), k = Expr::input("k", {8 * 128, 64}),
             v = Expr::input("v", {8 * 128, 64});
  EXPECT_EQ(interleave_query_groups(q, k, v, 8).pieces().size(), 24u);
  EXPECT_EQ(interleave_query_groups(q, k, v, 8).shape(), (Shape{(128 + 16) * 128, 64}));
  EXPECT_EQ(interleave_query_groups(q, Expr::input("k", {128 * 128, 64}), Expr::input("v", {128 * 128, 64}), 128)
                .pieces()
                .size(),
            384u);
}

TEST(Expr, AnInputUsedTwiceIsOneInput) {
  const Expr a = Expr::input("a", {4}), b = Expr::input("b", {4});
  const Expr tied = Expr::concat(0, {a, b, a});
  ASSERT_EQ(tied.inputs().size(), 2u);
  EXPECT_EQ(tied.inputs()[0].name, "a");
  EXPECT_EQ(tied.pieces()[2].source, 0);
  EXPECT_EQ(check_sources(tied.pieces(), {{4}, {4}}).doubles, 4);
}

TEST(Expr, ScalarsAndEmptyTensors) {
  const Expr scalar = Expr::input("s", {});
  ASSERT_EQ(scalar.pieces().size(), 1u);
  EXPECT_EQ(scalar.reshape({1}).shape(), (Shape{1}));
  EXPECT_EQ(Expr::stack(0, {scalar, Expr::input("t", {})}).pieces().size(), 2u);
  const Expr none = Expr::input("n", {0, 3});
  EXPECT_TRUE(none.pieces().empty());
  EXPECT_TRUE(none.reshape({3, 0}).pieces().empty());
  EXPECT_EQ(none.pad(0, 2).pieces().size(), 1u);
  EXPECT_TRUE(none.pad(0, 2).pieces()[0].is_fill());
  EXPECT_TRUE(none.slice(0, 0, 0).pieces_with_drops().empty());
}

std::string message_of(const std::function<void()>& step) {
  try {
    step();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Expr, ErrorsNameTheStepTheInputsAndTheShapes) {
  const Expr q = Expr::input("q", {8, 4}), k = Expr::input("k", {6, 3});
  EXPECT_THAT(message_of([&] {
                Expr::concat(0, {q, k});
              }),
              AllOf(HasSubstr("concat"), HasSubstr("'q'"), HasSubstr("[6, 3]")));
  EXPECT_THAT(message_of([&] { q.slice(0, 5, 4); }),
              AllOf(HasSubstr("slice"), HasSubstr("'q'"), HasSubstr("[8, 4]")));
  EXPECT_THAT(message_of([&] { q.slice(0, 0, INT64_MAX, INT64_MAX); }), HasSubstr("slice"));
  EXPECT_THAT(message_of([&] { q.slice(2, 0, 1); }), HasSubstr("no such axis"));
  EXPECT_THAT(message_of([&] { q.reshape({5, 5}); }), HasSubstr("[5, 5]"));
  EXPECT_THAT(message_of([&] { q.transpose({0, 0}); }), HasSubstr("transpose"));
  EXPECT_THAT(message_of([&] { q.transpose({0}); }), HasSubstr("transpose"));
  EXPECT_THAT(message_of([&] { q.pad(0, 7); }), HasSubstr("pad"));
  EXPECT_THAT(message_of([&] { Expr::concat(0, {}); }), HasSubstr("no parts"));
  EXPECT_THAT(message_of([&] {
                Expr::concat(0, {q, Expr::input("q", {9, 4})});
              }),
              HasSubstr("'q' is used with shape"));
  EXPECT_THAT(message_of([&] { Expr::stack(0, {q, k}); }), HasSubstr("stack"));
  EXPECT_THAT(message_of([&] { Expr::interleave(0, {q, Expr::input("r", {7, 4})}); }), HasSubstr("interleave"));
  EXPECT_THAT(message_of([&] { interleave_query_groups(q, k, k, 5); }), HasSubstr("5 groups"));
  EXPECT_THAT(message_of([&] { Expr::input("x", {1, 2, 3, 4, 1, 1, 1, 1}).unsqueeze(0); }), HasSubstr("unsqueeze"));
}

}  // namespace
}  // namespace viaduct::layout
