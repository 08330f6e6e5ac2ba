// The transformations that real models need, written as expressions, against their index formulas. Every case runs
// through the in-memory copier, for the whole tensor and for every rank's shard of it.
#include "tests/unit/layout/dense.h"
#include "viaduct/layout/copy.h"
#include "viaduct/layout/expr.h"
#include "viaduct/layout/split.h"

namespace viaduct::layout {
namespace {

using namespace testing;  // NOLINT: the test's own helpers

// Runs pieces through the real copier.
Dense executed(const Pieces& pieces, const std::vector<Dense>& inputs, const Shape& shape) {
  Dense result(shape, -1);
  std::vector<SourceBuffer> sources;
  for (const Dense& input : inputs) sources.push_back({input.shape, std::as_bytes(std::span(input.values))});
  const TargetBuffer target{shape, std::as_writable_bytes(std::span(result.values))};
  execute_in_memory(pieces, sources, std::span(&target, 1), sizeof(int64_t));
  return result;
}

// Holds an expression over `inputs` against the formula of rank t's tensor, and its inverse against the inputs.
void expect_formula(const Expr& expr, const std::vector<Dense>& inputs, const Split& split, int ranks,
                    const std::function<int64_t(const Shape&, int64_t)>& shard_at) {
  ASSERT_TRUE(check_targets(expr.pieces(), {expr.shape()}).exact());
  for (int rank = 0; rank < ranks; ++rank) {
    const Shape local = shard_shape(split, expr.shape(), ranks);
    const Pieces pieces = compose(expr.pieces(), shard_pieces(split, expr.shape(), ranks, rank));
    ASSERT_TRUE(check_targets(pieces, {local}).exact());
    const Dense expected = Dense::made(local, [&](const Shape& i) { return shard_at(i, rank); });
    EXPECT_EQ(executed(pieces, inputs, local), expected) << "rank " << rank << " of " << ranks;
  }
  const Dense whole = executed(expr.pieces(), inputs, expr.shape());
  std::vector<Shape> shapes;
  for (const Dense& input : inputs) shapes.push_back(input.shape);
  const Pieces back = inverse(expr.pieces());
  ASSERT_TRUE(check_targets(back, shapes).exact());
  EXPECT_EQ(moved(back, {whole}, shapes), inputs);
}

struct Heads {
  int64_t heads, groups, dim, hidden;
  int ranks;
};
const Heads kHeads[] = {{8, 8, 4, 3, 1}, {8, 2, 4, 3, 2}, {12, 4, 2, 5, 4},  {15, 5, 3, 1, 5}, {6, 1, 2, 4, 4},
                        {7, 1, 3, 2, 3}, {9, 3, 1, 2, 1}, {32, 8, 16, 2, 8}, {4, 4, 6, 0, 2}};

// hidden == 0 stands for a bias, which has rows only.
Shape rows_of(int64_t rows, int64_t hidden) { return hidden == 0 ? Shape{rows} : Shape{rows, hidden}; }

TEST(ClosedForms, T1QueryGroups) {
  for (const Heads& c : kHeads) {
    const int64_t d = c.dim, r = c.heads / c.groups, step = (r + 2) * d;
    const Dense q = Dense::counted(rows_of(c.heads * d, c.hidden), 1);
    const Dense k = Dense::counted(rows_of(c.groups * d, c.hidden), 100000);
    const Dense v = Dense::counted(rows_of(c.groups * d, c.hidden), 200000);
    const Expr expr = interleave_query_groups(Expr::input("q", q.shape), Expr::input("k", k.shape),
                                              Expr::input("v", v.shape), c.groups);
    // Fewer groups than ranks cut through a group: then the ranks must divide the rows all the same.
    const int ranks = expr.shape()[0] % c.ranks == 0 ? c.ranks : 1;
    expect_formula(expr, {q, k, v}, Split::along(0), ranks, [&](Shape i, int64_t t) {
      const int64_t row = i[0] + t * (expr.shape()[0] / ranks);
      const int64_t g = row / step, j = row % step / d, e = row % d;
      i[0] = j < r ? (g * r + j) * d + e : g * d + e;
      return (j < r ? q : j == r ? k : v).at(i);
    });
  }
}

TEST(ClosedForms, T2QueryGroupsWithGate) {
  for (const Heads& c : kHeads) {
    const int64_t d = c.dim, r = c.heads / c.groups, step = (2 * r + 2) * d;
    const Dense q = Dense::counted(rows_of(c.heads * 2 * d, c.hidden), 1);
    const Dense k = Dense::counted(rows_of(c.groups * d, c.hidden), 100000);
    const Dense v = Dense::counted(rows_of(c.groups * d, c.hidden), 200000);
    // [groups, r, query | gate, dim] -> per group all queries, then all gates.
    const Expr q_in = Expr::input("q", q.shape);
    const auto split_heads = [&](const Expr& rows, std::initializer_list<int64_t> leading) {
      Shape shape(leading);
      if (c.hidden != 0) shape.push_back(c.hidden);
      return rows.reshape(shape);
    };
    const Expr by_head = split_heads(q_in, {c.groups, r, 2, d});
    const Expr parted = c.hidden == 0 ? by_head.transpose({0, 2, 1, 3}) : by_head.transpose({0, 2, 1, 3, 4});
    const Expr grouped = Expr::concat(
        1, {split_heads(parted, {c.groups, 2 * r * d}), split_heads(Expr::input("k", k.shape), {c.groups, d}),
            split_heads(Expr::input("v", v.shape), {c.groups, d})});
    const Expr expr = grouped.reshape(rows_of(c.groups * step, c.hidden));
    const int ranks = expr.shape()[0] % c.ranks == 0 ? c.ranks : 1;
    expect_formula(expr, {q, k, v}, Split::along(0), ranks, [&](Shape i, int64_t t) {
      const int64_t row = i[0] + t * (expr.shape()[0] / ranks);
      const int64_t g = row / step, j = row % step / d, e = row % d;
      if (j < r)
        i[0] = (g * r + j) * 2 * d + e;
      else if (j < 2 * r)
        i[0] = (g * r + j - r) * 2 * d + d + e;
      else
        i[0] = g * d + e;
      return (j < 2 * r ? q : j == 2 * r ? k : v).at(i);
    });
  }
}

TEST(ClosedForms, T4GatedMlp) {
  for (const auto& [rows, hidden, ranks] : {std::tuple{12, 5, 4}, {6, 0, 3}, {10, 1, 1}, {35, 3, 7}}) {
    const int64_t f = rows, chunk = rows / ranks;
    const Dense gate = Dense::counted(rows_of(f, hidden), 1), up = Dense::counted(rows_of(f, hidden), 5000);
    const Expr expr = Expr::concat(0, {Expr::input("gate", gate.shape), Expr::input("up", up.shape)});
    expect_formula(expr, {gate, up}, Split::along(0, {f, f}), ranks, [&](Shape i, int64_t t) {
      const bool is_gate = i[0] < chunk;
      i[0] = i[0] % chunk + t * chunk;
      return (is_gate ? gate : up).at(i);
    });
  }
}

TEST(ClosedForms, T7MambaInProj) {
  for (const auto& [inner, state, heads, ranks] :
       {std::tuple{8, 4, 2, 2}, {24, 12, 6, 3}, {10, 5, 5, 5}, {7, 3, 1, 1}}) {
    const std::vector<int64_t> sizes{inner, inner, state, state, heads};
    const Dense in = Dense::counted({2 * inner + 2 * state + heads, 3}, 1);
    expect_formula(Expr::input("in_proj", in.shape), {in}, Split::along(0, sizes), ranks, [&](Shape i, int64_t t) {
      int64_t begin = 0;
      for (int64_t size : sizes) {
        if (i[0] < size / ranks) {
          i[0] += begin + t * (size / ranks);
          return in.at(i);
        }
        i[0] -= size / ranks;
        begin += size;
      }
      return int64_t{-2};
    });
  }
}

TEST(ClosedForms, T9GatedDeltaNetInProj) {
  struct Case {
    int64_t key_heads, value_heads, dk, dv, hidden;
    int ranks;
  };
  for (const Case& c : {Case{4, 8, 3, 2, 5, 2}, {2, 6, 2, 4, 1, 2}, {6, 6, 1, 3, 2, 3}, {3, 6, 2, 2, 4, 1}}) {
    const int64_t r = c.value_heads / c.key_heads, block = 2 * c.dk + 2 * r * c.dv, nk = c.key_heads;
    const Dense qkvz = Dense::counted({nk * block, c.hidden}, 1),
                ba = Dense::counted({nk * 2 * r, c.hidden}, 100000);
    const Expr by_head = Expr::input("in_proj_qkvz", qkvz.shape).reshape({nk, block, c.hidden});
    const Expr ba_by_head = Expr::input("in_proj_ba", ba.shape).reshape({nk, 2 * r, c.hidden});
    const std::vector<int64_t> sizes{nk * c.dk, nk * c.dk, nk * r * c.dv, nk * r * c.dv, nk * r, nk * r};
    const std::vector<int64_t> in_block{0, c.dk, 2 * c.dk, 2 * c.dk + r * c.dv, 0, r};
    std::vector<Expr> parts;
    for (size_t part = 0; part < sizes.size(); ++part)
      parts.push_back((part < 4 ? by_head : ba_by_head)
                          .slice(1, in_block[part], sizes[part] / nk)
                          .reshape({sizes[part], c.hidden}));
    const Expr expr = Expr::concat(0, parts);
    EXPECT_EQ(expr.shape()[0], 2 * nk * c.dk + 2 * c.value_heads * c.dv + 2 * c.value_heads);
    expect_formula(expr, {qkvz, ba}, Split::along(0, sizes), c.ranks, [&](Shape i, int64_t t) {
      size_t part = 0;
      while (i[0] >= sizes[part] / c.ranks) i[0] -= sizes[part++] / c.ranks;
      const int64_t in_component = i[0] + t * (sizes[part] / c.ranks), per_head = sizes[part] / nk;
      i[0] = in_component / per_head * (part < 4 ? block : 2 * r) + in_block[part] + in_component % per_head;
      return (part < 4 ? qkvz : ba).at(i);
    });
  }
}

// GPT-oss: gate and up rows by turns, stored [E, h, 2*ff] (bf16) or [E, 2*ff, h] (dequantised MXFP4).
TEST(ClosedForms, T16InterleavedGateUp) {
  for (const auto& [experts, ff, hidden, ranks] : {std::tuple{3, 6, 4, 2}, {1, 5, 3, 1}, {4, 9, 9, 3}})
    for (bool transposed : {false, true}) {
      const int64_t f = ff, chunk = ff / ranks;
      const Dense source =
          Dense::counted(transposed ? Shape{experts, hidden, 2 * f} : Shape{experts, 2 * f, hidden}, 1);
      for (int64_t expert = 0; expert < experts; ++expert) {
        Expr one =
            Expr::input("gate_up", source.shape).slice(0, expert, 1).reshape({source.shape[1], source.shape[2]});
        if (transposed) one = one.transpose({1, 0});
        const Expr expr = Expr::concat(0, {one.slice(0, 0, f, 2), one.slice(0, 1, f, 2)});
        EXPECT_EQ(expr.pieces().size(), 2u);
        for (int rank = 0; rank < ranks; ++rank) {
          const Shape local{2 * chunk, hidden};
          const Pieces pieces =
              compose(expr.pieces(), shard_pieces(Split::along(0, {f, f}), expr.shape(), ranks, rank));
          const Dense expected = Dense::made(local, [&](const Shape& i) {
            const int64_t row = 2 * (i[0] % chunk + rank * chunk) + i[0] / chunk;
            return source.at(transposed ? Shape{expert, i[1], row} : Shape{expert, row, i[1]});
          });
          EXPECT_EQ(executed(pieces, {source}, local), expected);
        }
      }
    }
}

// The export of the same: the experts' [gate; up] by turns, transposed and stacked.
TEST(ClosedForms, T16Export) {
  const int64_t experts = 3, ff = 4, hidden = 5;
  std::vector<Dense> weights;
  std::vector<Expr> parts;
  for (int64_t e = 0; e < experts; ++e) {
    weights.push_back(Dense::counted({2 * ff, hidden}, 1 + 1000 * e));
    const Expr one = Expr::input("weight" + std::to_string(e), {2 * ff, hidden});
    parts.push_back(Expr::interleave(0, {one.slice(0, 0, ff), one.slice(0, ff, ff)}).transpose({1, 0}));
  }
  const Expr expr = Expr::stack(0, parts);
  expect_formula(expr, weights, Split::replicated(), 1, [&](const Shape& i, int64_t) {
    return weights[static_cast<size_t>(i[0])].at({i[2] % 2 * ff + i[2] / 2, i[1]});
  });
}

// Fused experts: [E, h, 2*ff] or [E, 2*ff, h], gate before up; and the down projections.
TEST(ClosedForms, T17AndT18FusedExperts) {
  for (const auto& [experts, ff, hidden, ranks] : {std::tuple{4, 6, 3, 3}, {2, 4, 4, 2}, {5, 3, 7, 1}})
    for (bool transposed : {false, true}) {
      const int64_t f = ff, h = hidden, chunk = f / ranks;
      const Dense gate_up = Dense::counted(transposed ? Shape{experts, h, 2 * f} : Shape{experts, 2 * f, h}, 1);
      const Dense down = Dense::counted(transposed ? Shape{experts, f, h} : Shape{experts, h, f}, 1);
      std::vector<Expr> all_down;
      for (int64_t expert = 0; expert < experts; ++expert) {
        const auto one = [&](const char* name, const Dense& source) {
          const Expr part =
              Expr::input(name, source.shape).slice(0, expert, 1).reshape({source.shape[1], source.shape[2]});
          return transposed ? part.transpose({1, 0}) : part;
        };
        const Expr fc1 = one("gate_up", gate_up), fc2 = one("down", down);
        all_down.push_back(fc2);
        for (int rank = 0; rank < ranks; ++rank) {
          const Dense expected1 = Dense::made({2 * chunk, h}, [&](const Shape& i) {
            const int64_t row = i[0] / chunk * f + rank * chunk + i[0] % chunk;
            return gate_up.at(transposed ? Shape{expert, i[1], row} : Shape{expert, row, i[1]});
          });
          EXPECT_EQ(executed(compose(fc1.pieces(), shard_pieces(Split::along(0, {f, f}), fc1.shape(), ranks, rank)),
                             {gate_up}, expected1.shape),
                    expected1);
          const Dense expected2 = Dense::made({h, chunk}, [&](const Shape& i) {
            const int64_t column = rank * chunk + i[1];
            return down.at(transposed ? Shape{expert, column, i[0]} : Shape{expert, i[0], column});
          });
          EXPECT_EQ(executed(compose(fc2.pieces(), shard_pieces(Split::along(1), fc2.shape(), ranks, rank)), {down},
                             expected2.shape),
                    expected2);
        }
      }
      // Put together again the experts are the source, in one piece.
      const Expr again = transposed ? Expr::stack(0, all_down).transpose({0, 2, 1}) : Expr::stack(0, all_down);
      EXPECT_EQ(again.pieces(), Expr::input("down", down.shape).pieces());
    }
}

}  // namespace
}  // namespace viaduct::layout
