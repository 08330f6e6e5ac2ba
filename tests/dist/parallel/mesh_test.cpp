// The groups of layouts: against megatron-core's lists of ranks, and whether they reach each other.
#include "viaduct/parallel/mesh.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <numeric>

#include "tests/dist/dist_world.h"
#include "tests/unit/topology/fixture_lines.h"
#include "viaduct/core/error.h"

namespace viaduct::parallel {
namespace {

using test::world;
using ::testing::HasSubstr;
using topology::testing::fields;
using topology::testing::fixture_lines;

void expect_members(const Group& group, const std::vector<int>& ranks) {
  EXPECT_EQ(group.global_ranks(), ranks) << group.name();
  EXPECT_EQ(group.global_rank(group.rank()), world().rank()) << group.name();
  // The sum of 2^rank says who took part.
  at::Tensor sum =
      at::full({1}, int64_t{1} << world().rank(), at::TensorOptions(world().device()).dtype(at::kLong));
  group.all_reduce(sum);
  int64_t expected = 0;
  for (const int rank : ranks) expected += int64_t{1} << rank;
  EXPECT_EQ(sum.item<int64_t>(), expected) << group.name();
}

// Of "0,2;1,3" the list with this rank.
std::vector<int> mine(const std::string& groups) {
  for (const std::string& group : fields(groups, ';')) {
    std::vector<int> ranks;
    for (const std::string& rank : fields(group, ',')) ranks.push_back(std::stoi(rank));
    if (std::find(ranks.begin(), ranks.end(), world().rank()) != ranks.end()) return ranks;
  }
  ADD_FAILURE() << "rank " << world().rank() << " is in none of " << groups;
  return {};
}

const Group* named(const Mesh& mesh, const std::string& name) {
  const std::map<std::string, const Group*> all{
      {"dense tp", &mesh.tp},       {"dense cp", &mesh.cp},       {"dense dp", &mesh.dp},
      {"dense pp", &mesh.pp},       {"dense dp-cp", &mesh.dp_cp}, {"dense tp-dp-cp", &mesh.tp_dp_cp},
      {"dense tp-pp", &mesh.model}, {"expert tp", &mesh.etp},     {"expert ep", &mesh.ep},
      {"expert dp", &mesh.edp},     {"expert pp", &mesh.pp},      {"expert tp-ep", &mesh.etp_ep}};
  const auto it = all.find(name);
  return it == all.end() ? nullptr : it->second;
}

TEST(Mesh, GroupsAreThoseOfMegatronCore) {
  std::optional<Mesh> mesh;
  int layouts = 0, groups = 0;
  for (const std::string& line : fixture_lines("rank_groups.txt")) {
    const std::vector<std::string> words = fields(line, ' ');
    if (words[0] == "config") {
      const auto number = [&](size_t i) { return std::stoi(words[i]); };
      mesh.reset();
      const topology::Parallelism sizes{
          .tp = number(2), .pp = number(5), .cp = number(3), .ep = number(7), .etp = number(6), .dp = number(4)};
      if (sizes.world_size() != world().size()) continue;
      mesh = world().mesh(
          sizes, words[1] == "data_last" ? topology::RankOrder::kDataLast : topology::RankOrder::kPipelineLast);
      EXPECT_EQ(mesh->sizes(), sizes);
      ++layouts;
    } else if (mesh) {
      if (const Group* group = named(*mesh, words[0] + " " + words[1])) {
        SCOPED_TRACE(line);
        expect_members(*group, mine(words[2]));
        ++groups;
      }
    }
  }
  EXPECT_GE(layouts, 3);
  EXPECT_EQ(groups, 12 * layouts);
}

TEST(Mesh, MixedLayoutWithTwoStages) {
  const Mesh mesh = world().mesh({.tp = 2, .pp = 2, .ep = 2});
  const int rank = world().rank(), stage = world().size() / 2;
  EXPECT_EQ(mesh.rank(), rank);
  EXPECT_EQ(mesh.sizes().dp, world().size() / 4);
  EXPECT_EQ(mesh.first_stage(), rank < stage);
  EXPECT_EQ(mesh.last_stage(), rank >= stage);
  std::vector<int> all(static_cast<size_t>(world().size()));
  std::iota(all.begin(), all.end(), 0);
  expect_members(mesh.world, all);
  expect_members(mesh.embedding, {rank % stage, rank % stage + stage});
  expect_members(mesh.tp, {rank / 2 * 2, rank / 2 * 2 + 1});
}

TEST(Mesh, TheEmbeddingIsSharedByTheFirstAndTheLastStageOnly) {
  const Mesh mesh = world().mesh({.pp = 4});
  const int rank = world().rank(), replicas = world().size() / 4, stage = rank / replicas;
  if (stage == 0 || stage == 3)
    expect_members(mesh.embedding, {rank % replicas, rank % replicas + 3 * replicas});
  else
    EXPECT_EQ(mesh.embedding.global_ranks(), std::vector<int>{rank});
}

TEST(Mesh, LayoutsThatDoNotFitAreErrorsWithTheNumbers) {
  const std::string ranks = std::to_string(world().size()) + " ranks";
  const auto error_of = [](const topology::Parallelism& sizes) -> std::string {
    try {
      world().mesh(sizes);
    } catch (const UserError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of({.tp = 3}), HasSubstr(ranks + " cannot be cut into tensor_model_parallel_size (3)"));
  EXPECT_THAT(error_of({.tp = 2, .ep = 3}), HasSubstr("expert_model_parallel_size (3)"));
  EXPECT_THAT(error_of({.tp = 2, .dp = 3}), HasSubstr("data_parallel_size is 3, but " + ranks));
  EXPECT_THAT(error_of({.vpp = 2}), HasSubstr("virtual_pipeline_model_parallel_size is 2"));
}

}  // namespace
}  // namespace viaduct::parallel
