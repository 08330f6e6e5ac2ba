#include "viaduct/layout/plan.h"

#include <gmock/gmock.h>

#include <map>

#include "tests/unit/layout/random_expr.h"
#include "viaduct/layout/copy.h"

namespace viaduct::layout {
namespace {

using namespace testing;  // NOLINT: the test's own helpers
using ::testing::HasSubstr;

struct Parameter {
  std::string name;
  Dense value;
};

struct Model {
  std::vector<Parameter> parameters;
};

// A layout of a model over ranks: for each rank which shards it holds. Tensor-parallel cuts, replicas and, as
// pipeline stages do, parameters that only some ranks hold.
struct Layout {
  int shards;
  int replicas;
  int stages;
  std::vector<Split> splits;  // one a parameter
  int ranks() const { return shards * replicas * stages; }

  RankTensors held(const Model& model, int rank) const {
    RankTensors result;
    const int shard = rank % shards, stage = rank / (shards * replicas);
    for (size_t p = 0; p < model.parameters.size(); ++p)
      if (static_cast<int>(p) % stages == stage)
        result.push_back(
            shard_of(model.parameters[p].name, model.parameters[p].value.shape, splits[p], shards, shard));
    return result;
  }
};

// The rank's tensors, straight from the whole parameters.
std::vector<Dense> direct(const Model& model, const RankTensors& held) {
  std::vector<Dense> result;
  for (const ShardedTensor& tensor : held)
    for (const Parameter& parameter : model.parameters)
      if (parameter.name == tensor.name)
        result.push_back(moved(tensor.pieces, {parameter.value}, {tensor.local_shape})[0]);
  return result;
}

std::vector<Dense> received(const RankPlan& plan, const std::vector<std::vector<Dense>>& of_rank,
                            const RankTensors& wanted) {
  std::vector<Dense> result;
  std::vector<SourceBuffer> sources;
  for (const RankPlan::Source& source : plan.sources) {
    const Dense& dense = of_rank[static_cast<size_t>(source.rank)][static_cast<size_t>(source.tensor)];
    sources.push_back({dense.shape, std::as_bytes(std::span(dense.values))});
  }
  for (const ShardedTensor& tensor : wanted) result.emplace_back(tensor.local_shape, -1);
  std::vector<TargetBuffer> targets;
  for (Dense& dense : result) targets.push_back({dense.shape, std::as_writable_bytes(std::span(dense.values))});
  execute_in_memory(plan.pieces, sources, targets, sizeof(int64_t));
  return result;
}

Split random_split(Random& random, const Shape& shape, int shards) {
  if (pick(random, 0, 3) == 0) return Split::replicated();
  std::vector<int> axes;
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (shape[axis] % shards == 0) axes.push_back(axis);
  if (axes.empty()) return Split::replicated();
  const int axis = axes[static_cast<size_t>(pick(random, 0, static_cast<int64_t>(axes.size()) - 1))];
  const int64_t units = shape[axis] / shards;
  const int64_t first = pick(random, 0, units);
  if (pick(random, 0, 1) == 0) return Split::along(axis);
  return Split::along(axis, {first * shards, (units - first) * shards});
}

Layout random_layout(Random& random, const Model& model) {
  Layout layout;
  const int shards[] = {1, 2, 3, 4, 6};
  layout.shards = shards[pick(random, 0, 4)];
  layout.replicas = static_cast<int>(pick(random, 1, 3));
  layout.stages = static_cast<int>(pick(random, 1, 3));
  for (const Parameter& parameter : model.parameters)
    layout.splits.push_back(random_split(random, parameter.value.shape, layout.shards));
  return layout;
}

// Sharded under one layout and read under another is the same as sharded under the other at once.
TEST(Plan, ReadingUnderAnotherLayoutIsShardingUnderIt) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    Random random(seed);
    Model model;
    const int64_t sizes[] = {1, 5, 12, 24, 36, 7};
    for (int p = 0; p < 4; ++p) {
      Shape shape;
      for (int64_t rank = pick(random, 1, 3); rank > 0; --rank)
        shape.push_back(sizes[pick(random, 0, rank == 1 ? 5 : 2)]);
      model.parameters.push_back({fmt::format("p{}", p), Dense::counted(shape, 1 + 1000000 * p)});
    }
    const Layout one = random_layout(random, model), two = random_layout(random, model);
    std::vector<RankTensors> sources;
    std::vector<std::vector<Dense>> values;
    for (int rank = 0; rank < one.ranks(); ++rank) {
      sources.push_back(one.held(model, rank));
      values.push_back(direct(model, sources.back()));
    }
    const Planner planner(sources);
    for (int rank = 0; rank < two.ranks(); ++rank) {
      const RankTensors wanted = two.held(model, rank);
      const RankPlan plan = planner.plan(wanted, rank);
      ASSERT_EQ(received(plan, values, wanted), direct(model, wanted)) << seed;
      const RankPlan again = layout::plan(sources, wanted, rank);
      ASSERT_EQ(again.pieces, plan.pieces);
      ASSERT_EQ(again.sources, plan.sources);
    }
  }
}

// A rule applied and then sharded equals sharded under one layout and read under another, whatever the rule.
TEST(Plan, ShardsOfExpressionsMoveToo) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    ExprMaker maker(seed);
    Random& random = maker.source_of_randomness();
    const Built built = maker.random(4, 500);
    const Shape shape = built.expr.shape();
    const int from_ranks = static_cast<int>(pick(random, 1, 4)), to_ranks = static_cast<int>(pick(random, 1, 4));
    const Split from = random_split(random, shape, from_ranks), to = random_split(random, shape, to_ranks);
    std::vector<RankTensors> sources;
    for (int rank = 0; rank < from_ranks; ++rank) sources.push_back({shard_of("w", shape, from, from_ranks, rank)});
    for (int rank = 0; rank < to_ranks; ++rank) {
      const RankTensors wanted{shard_of("w", shape, to, to_ranks, rank)};
      const RankPlan plan = layout::plan(sources, wanted, rank);
      // inputs -> shards of the first layout, then those -> the shard of the second
      Pieces first;
      for (size_t source = 0; source < plan.sources.size(); ++source) {
        const ShardedTensor& held = sources[static_cast<size_t>(plan.sources[source].rank)][0];
        for (Piece piece : compose(built.expr.pieces(), held.pieces)) {
          piece.target = static_cast<int32_t>(source);
          first.push_back(piece);
        }
      }
      const std::vector<Dense> values = maker.values(built.expr);
      ASSERT_EQ(moved(compose(first, plan.pieces), values, {wanted[0].local_shape}),
                moved(compose(built.expr.pieces(), wanted[0].pieces), values, {wanted[0].local_shape}))
          << seed;
    }
  }
}

TEST(Plan, PaddingOfTheTargetIsFilled) {
  const Expr padded = Expr::input("e", {10, 2}).pad(0, 12);
  const RankTensors held{{"e", {10, 2}, {12, 2}, padded.pieces()}};
  const RankTensors wanted{
      {"e", {10, 2}, {6, 2}, compose(padded.pieces(), shard_pieces(Split::along(0), {12, 2}, 2, 1))}};
  const RankPlan plan = layout::plan(std::span(&held, 1), wanted, 0);
  ASSERT_EQ(plan.pieces.size(), 2u);
  EXPECT_EQ(plan.pieces[0].from.size, (Shape{4, 2}));
  EXPECT_TRUE(plan.pieces[1].is_fill());
}

TEST(Plan, ReplicasShareTheWork) {
  std::vector<RankTensors> sources;
  for (int rank = 0; rank < 8; ++rank) sources.push_back({shard_of("w", {8, 4}, Split::along(0), 2, rank % 2)});
  std::map<int32_t, int> reads;
  for (int rank = 0; rank < 8; ++rank) {
    const RankPlan plan = layout::plan(sources, {shard_of("w", {8, 4}, Split::replicated(), 1, 0)}, rank);
    EXPECT_EQ(plan.sources.size(), 2u);
    for (const auto& source : plan.sources) ++reads[source.rank];
  }
  EXPECT_EQ(reads.size(), 8u);
  for (const auto& [rank, count] : reads) EXPECT_EQ(count, 2) << rank;
}

TEST(Plan, ErrorsNameParameterAndRank) {
  const std::vector<RankTensors> sources{{shard_of("decoder.weight", {8, 4}, Split::along(0), 2, 0)}};
  const auto message = [&](const RankTensors& wanted) {
    try {
      layout::plan(sources, wanted, 3);
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(message({shard_of("decoder.weigth", {8, 4}, Split::replicated(), 1, 0)}),
              AllOf(HasSubstr("'decoder.weigth'"), HasSubstr("did you mean 'decoder.weight'")));
  EXPECT_THAT(message({shard_of("decoder.weight", {8, 5}, Split::replicated(), 1, 0)}),
              AllOf(HasSubstr("[8, 4]"), HasSubstr("[8, 5]"), HasSubstr("target rank 3")));
  EXPECT_THAT(message({shard_of("decoder.weight", {8, 4}, Split::replicated(), 1, 0)}),
              AllOf(HasSubstr("[4:8, 0:4]"), HasSubstr("'decoder.weight'")));
}

}  // namespace
}  // namespace viaduct::layout
