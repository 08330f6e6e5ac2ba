#include "viaduct/topology/rank_grid.h"

#include <gmock/gmock.h>

#include <map>

#include "tests/unit/topology/fixture_lines.h"
#include "viaduct/core/error.h"

namespace viaduct::topology {
namespace {

using testing::fields;
using testing::fixture_lines;
using ::testing::HasSubstr;

std::string show(const std::vector<std::vector<int>>& groups) {
  std::string text;
  for (const auto& group : groups) {
    if (!text.empty()) text += ';';
    for (size_t i = 0; i < group.size(); ++i) text += (i > 0 ? "," : "") + std::to_string(group[i]);
  }
  return text;
}

std::vector<std::vector<int>> groups_named(const RankGrid& grid, bool dense, const std::string& name) {
  const std::map<std::string, std::vector<std::vector<int>>> known =
      dense ? std::map<std::string, std::vector<std::vector<int>>>{{"tp", grid.groups({Axis::kTp})},
                                                                   {"cp", grid.groups({Axis::kCp})},
                                                                   {"dp", grid.groups({Axis::kDp})},
                                                                   {"pp", grid.groups({Axis::kPp})},
                                                                   {"dp-cp", grid.groups({Axis::kDp, Axis::kCp})},
                                                                   {"tp-cp", grid.groups({Axis::kTp, Axis::kCp})},
                                                                   {"tp-dp", grid.groups({Axis::kTp, Axis::kDp})},
                                                                   {"tp-dp-cp",
                                                                    grid.groups({Axis::kTp, Axis::kDp, Axis::kCp})},
                                                                   {"tp-pp", grid.groups({Axis::kTp, Axis::kPp})}}
            : std::map<std::string, std::vector<std::vector<int>>>{
                  {"tp", grid.groups({Axis::kEtp})},
                  {"ep", grid.groups({Axis::kEp})},
                  {"dp", grid.groups({Axis::kEdp})},
                  {"pp", grid.groups({Axis::kPp})},
                  {"tp-ep", grid.groups({Axis::kEtp, Axis::kEp})},
                  {"tp-ep-pp", grid.groups({Axis::kEtp, Axis::kEp, Axis::kPp})},
                  {"tp-ep-dp", grid.groups({Axis::kEtp, Axis::kEp, Axis::kEdp})}};
  return known.at(name);
}

// Every group of 40 random layouts is megatron-core's.
TEST(RankGrid, GroupsAreThoseOfMegatronCore) {
  std::optional<RankGrid> grid;
  int compared = 0;
  for (const std::string& line : fixture_lines("rank_groups.txt")) {
    const std::vector<std::string> words = fields(line, ' ');
    if (words[0] == "config") {
      const auto number = [&](size_t i) { return std::stoi(words[i]); };
      const Parallelism sizes{
          .tp = number(2), .pp = number(5), .cp = number(3), .ep = number(7), .etp = number(6), .dp = number(4)};
      grid.emplace(sizes, words[1] == "data_last" ? RankOrder::kDataLast : RankOrder::kPipelineLast);
      EXPECT_EQ(grid->size(Axis::kEdp), number(8));
      continue;
    }
    ASSERT_TRUE(grid);
    // The pipeline groups of the expert layers are those of the dense ones.
    EXPECT_EQ(show(groups_named(*grid, words[0] == "dense", words[1])), words[2]) << line;
    ++compared;
  }
  EXPECT_EQ(compared, 40 * 16);
}

TEST(RankGrid, CoordinatesThereAndBack) {
  for (const RankOrder order : {RankOrder::kPipelineLast, RankOrder::kDataLast}) {
    const Parallelism sizes{.tp = 2, .pp = 3, .cp = 2, .ep = 4, .etp = 1, .dp = 4};
    ASSERT_EQ(sizes.expert_data_parallel_size(), 4);
    const RankGrid grid(sizes, order);
    ASSERT_EQ(grid.world_size(), 48);
    for (int rank = 0; rank < grid.world_size(); ++rank) {
      const Coordinates place = grid.coordinates(rank);
      EXPECT_EQ(grid.dense_rank(place), rank);
      EXPECT_EQ(grid.expert_rank(place), rank);
      for (const auto& axes :
           {std::initializer_list<Axis>{Axis::kTp}, {Axis::kDp, Axis::kCp}, {Axis::kEp, Axis::kPp}}) {
        const std::vector<int> group = grid.group_of(rank, axes);
        EXPECT_EQ(std::count(group.begin(), group.end(), rank), 1);
        for (int other : group) EXPECT_EQ(grid.group_of(other, axes), group);
      }
    }
  }
}

TEST(RankGrid, TensorParallelRanksAreNeighbours) {
  const RankGrid grid({.tp = 2, .pp = 2, .cp = 2, .dp = 2});
  const Coordinates place = grid.coordinates(13);
  EXPECT_EQ(place.tp, 1);
  EXPECT_EQ(place.cp, 0);
  EXPECT_EQ(place.dp, 1);
  EXPECT_EQ(place.pp, 1);
}

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Parallelism, ErrorsNameTheFields) {
  EXPECT_THAT(message_of([] { Parallelism{.tp = 0}.validate(); }), HasSubstr("tensor_model_parallel_size is 0"));
  EXPECT_THAT(message_of([] { Parallelism{.etp = -1}.validate(); }),
              HasSubstr("expert_tensor_parallel_size is -1"));
  EXPECT_THAT(
      message_of([] { Parallelism{.vpp = 2}.validate(); }),
      AllOf(HasSubstr("virtual_pipeline_model_parallel_size is 2"), HasSubstr("pipeline_model_parallel_size")));
  EXPECT_THAT(message_of([] { (void)Parallelism{.tp = 2, .pp = 3}.with_world_size(16); }),
              AllOf(HasSubstr("16 ranks"), HasSubstr("tensor_model_parallel_size (2)"),
                    HasSubstr("pipeline_model_parallel_size (3)")));
  EXPECT_THAT(message_of([] { (void)Parallelism{.tp = 2, .ep = 3}.with_world_size(16); }),
              AllOf(HasSubstr("16 ranks"), HasSubstr("expert_model_parallel_size (3)")));
  EXPECT_THAT(message_of([] { (void)Parallelism{.tp = 2}.with_world_size(0); }), HasSubstr("0 ranks"));
  EXPECT_THAT(message_of([] { (void)Parallelism{.tp = 1 << 20, .pp = 1 << 20}.world_size(); }), HasSubstr("ranks"));
  EXPECT_THAT(message_of([] { RankGrid({.tp = 2, .pp = 2, .etp = 1, .dp = 2}, RankOrder::kDataLast); }),
              HasSubstr("use_tp_pp_dp_mapping"));
}

TEST(Parallelism, DataParallelFillsTheWorld) {
  const Parallelism sizes = Parallelism{.tp = 2, .pp = 2, .cp = 2, .ep = 4}.with_world_size(64);
  EXPECT_EQ(sizes.dp, 8);
  EXPECT_EQ(sizes.world_size(), 64);
  EXPECT_EQ(sizes.expert_data_parallel_size(), 8);
}

}  // namespace
}  // namespace viaduct::topology
