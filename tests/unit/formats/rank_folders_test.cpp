#include "viaduct/formats/rank_folders.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "scratch_folder.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

void rank(const ScratchFolder& root, const std::string& name) { root.file(name + "/model_optim_rng.pt", "x"); }

TEST(RankFolders, NamesAndOrder) {
  const ScratchFolder root;
  EXPECT_FALSE(has_rank_folders(root.path()));
  for (const char* name : {"mp_rank_10_001_000", "mp_rank_00_001_003", "mp_rank_00_000_000"}) rank(root, name);
  root.file("mp_rank_x/model_optim_rng.pt", "x");
  root.file("mp_rank_00_000_000_000/model_optim_rng.pt", "x");
  root.file("mp_rank_07", "a file");
  EXPECT_TRUE(has_rank_folders(root.path()));
  const std::vector<RankFolder> found = find_rank_folders(root.path());
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].name, "mp_rank_00_000_000");
  EXPECT_EQ(found[1].name, "mp_rank_00_001_003");
  EXPECT_EQ(found[1].pp(true), 1);
  EXPECT_EQ(found[1].ep(true), 3);
  EXPECT_EQ(found[2].tp, 10);
}

// One number behind the tensor-parallel rank is of the axis that is parallel.
TEST(RankFolders, OneNumberIsEither) {
  const ScratchFolder root;
  rank(root, "mp_rank_00_002");
  const RankFolder found = find_rank_folders(root.path()).at(0);
  EXPECT_EQ(found.pp(true), 2);
  EXPECT_EQ(found.ep(true), 0);
  EXPECT_EQ(found.pp(false), 0);
  EXPECT_EQ(found.ep(false), 2);
}

TEST(RankFolders, OtherFiles) {
  const ScratchFolder root;
  rank(root, "mp_rank_00");
  rank(root, "mp_rank_01");
  root.file("mp_rank_01/distrib_optim.pt", "x");
  EXPECT_THAT(other_rank_files(root.path()), ElementsAre("mp_rank_01/distrib_optim.pt"));
}

TEST(RankFolders, Errors) {
  const ScratchFolder root;
  const auto says = [&] { return error_of([&] { find_rank_folders(root.path()); }); };
  EXPECT_THAT(says(), HasSubstr("no mp_rank_* folder"));
  rank(root, "mp_rank_00");
  std::filesystem::create_directories(root / "mp_rank_01");
  EXPECT_THAT(says(), HasSubstr("mp_rank_01 holds no model_optim_rng.pt"));
  rank(root, "mp_rank_01");
  rank(root, "mp_rank_1");
  EXPECT_THAT(says(), HasSubstr("the same rank twice"));
  std::filesystem::remove_all(root / "mp_rank_1");
  rank(root, "mp_rank_01_000");
  EXPECT_THAT(says(), HasSubstr("different layouts"));
}

TEST(RankFolders, PartsOfARanksFile) {
  const ScratchFolder root;
  const PickleValue tensor = PickleTensor{DType::kU8, {3}, "abc"};
  const PickleValue content = PickleValue::dict(
      {{"model0", PickleValue::dict({{"a.weight", tensor}, {"a._extra_state", PickleValue()}})},
       {"model1", PickleValue::dict({{"a.weight", tensor}})},
       {"optimizer", PickleValue::dict({{"exp_avg", tensor}, {"step", PickleTensor{DType::kU8, {}, "s"}}})},
       {"args", PickleValue::object("some.unknown.Class", {1}, {}, {}, {})},
       {"iteration", 4}});
  const Path file = root.file("mp_rank_00/model_optim_rng.pt", write_torch_file(content, "model_optim_rng"));
  static constexpr std::array<std::string_view, 3> kWanted = {"args", "iteration", "absent"};
  const TorchFileParts parts = read_torch_parts(file, "model", kWanted);
  ASSERT_EQ(parts.tensors.size(), 2u);
  EXPECT_EQ(parts.tensors[0].name, "model0.a.weight");
  EXPECT_EQ(parts.tensors[1].name, "model1.a.weight");
  EXPECT_EQ(parts.values.at("iteration").as_int(), 4);
  EXPECT_EQ(parts.values.at("args").text(), "some.unknown.Class");
  EXPECT_EQ(parts.values.find("absent"), nullptr);
  EXPECT_THAT(parts.other_keys, ElementsAre("optimizer"));
  EXPECT_TRUE(read_torch_parts(file, std::nullopt, kWanted).tensors.empty());
  // Of a key that is wanted both ways the value is without the elements of what is more than a number.
  static constexpr std::array<std::string_view, 1> kOptimizer = {"optimizer"};
  const TorchFileParts both = read_torch_parts(file, "optimizer", kOptimizer);
  ASSERT_EQ(both.tensors.size(), 2u);
  EXPECT_EQ(both.tensors[0].name, "optimizer.exp_avg");
  EXPECT_TRUE(both.values.at("optimizer").at("exp_avg").is_none());
  EXPECT_EQ(both.values.at("optimizer").at("step").as_tensor().bytes, "s");
  const auto reader = open_rank_folders(root.path());
  EXPECT_EQ(reader->tensors().at(0).name, "mp_rank_00/model0.a.weight");
  EXPECT_EQ(read_tensor(*reader, reader->tensors()[1]).size(), 3u);
  EXPECT_THAT(error_of([&] {
                root.file("mp_rank_00/model_optim_rng.pt", write_torch_file(PickleValue::list(), "x"));
                open_rank_folders(root.path());
              }),
              HasSubstr("does not hold a dict"));
}

}  // namespace
}  // namespace viaduct::formats
