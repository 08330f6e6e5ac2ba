#include "viaduct/formats/iteration_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scratch_folder.h"

namespace viaduct::formats {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

void complete(const ScratchFolder& root, const std::string& name) {
  root.file(name + "/.metadata", "x");
  root.file(name + "/metadata.json", "{}");
}

TEST(IterationFolder, NewestComplete) {
  const ScratchFolder root;
  complete(root, "iter_0000005");
  complete(root, "iter_0000100");
  complete(root, "iter_12345678");
  complete(root, "release");
  root.file("iter_20000000/metadata.json", "{}");
  root.file("iter_30000000/.metadata", "x");
  root.file("latest_checkpointed_iteration.txt", "30000000");
  const IterationFolder found = find_iteration(root.path());
  EXPECT_EQ(found.folder, root / "iter_12345678");
  EXPECT_EQ(found.iteration, 12345678);
  EXPECT_THAT(found.passed_over,
              ElementsAre(HasSubstr("iter_20000000: no .metadata"), HasSubstr("iter_30000000: no metadata.json")));
  EXPECT_EQ(resolve_iteration(root.path(), 5), root / "iter_0000005");
  EXPECT_EQ(resolve_iteration(root.path() / ""), root / "iter_12345678");
}

TEST(IterationFolder, ReleaseAndTheFolderItself) {
  const ScratchFolder root;
  complete(root, "release");
  EXPECT_EQ(resolve_iteration(root.path()), root / "release");
  complete(root, "iter_0000007");
  EXPECT_EQ(find_iteration(root / "iter_0000007").iteration, 7);
  EXPECT_EQ(resolve_iteration(root / "iter_0000007" / ""), root / "iter_0000007");
  EXPECT_EQ(resolve_iteration(root / "iter_0000007", 7), root / "iter_0000007");
  EXPECT_THAT(error_of([&] { resolve_iteration(root / "iter_0000007", 8); }), HasSubstr("iteration 8"));
}

TEST(IterationFolder, IsThereAny) {
  const ScratchFolder root;
  EXPECT_FALSE(holds_iterations(root / "missing"));
  EXPECT_FALSE(holds_iterations(root.path()));
  root.file("hf/config.json", "{}");
  EXPECT_FALSE(holds_iterations(root / "hf"));
  root.file("started/iter_0000005/metadata.json", "{}");  // not complete: find_iteration says so
  EXPECT_TRUE(holds_iterations(root / "started"));
  complete(root, "run/iter_0000007");
  EXPECT_TRUE(holds_iterations(root / "run"));
  EXPECT_TRUE(holds_iterations(root / "run/iter_0000007" / ""));
  root.file("legacy/iter_0000001/mp_rank_00/model_optim_rng.pt", "x");
  EXPECT_TRUE(holds_iterations(root / "legacy/iter_0000001"));
}

TEST(IterationFolder, Forms) {
  const ScratchFolder root;
  root.file("iter_0000003/.metadata", "x");
  // Without metadata.json it may be Megatron-FSDP's: taken when there is nothing else.
  EXPECT_EQ(find_iteration(root.path()).form, MegatronForm::kPlainDcp);
  EXPECT_TRUE(find_iteration(root.path()).passed_over.empty());
  root.file("iter_0000001/mp_rank_00/model_optim_rng.pt", "x");
  EXPECT_EQ(find_iteration(root.path()).form, MegatronForm::kRankFolders);
  EXPECT_EQ(find_iteration(root.path()).iteration, 1);
  EXPECT_THAT(find_iteration(root.path()).passed_over, ElementsAre(HasSubstr("iter_0000003: no metadata.json")));
  complete(root, "iter_0000002");
  EXPECT_EQ(find_iteration(root.path()).form, MegatronForm::kTorchDist);
  EXPECT_EQ(find_iteration(root / "iter_0000001").form, MegatronForm::kRankFolders);
  EXPECT_EQ(find_iteration(root / "iter_0000003").form, MegatronForm::kPlainDcp);
}

TEST(IterationFolder, DataOfANemoFolderLieInWeights) {
  const ScratchFolder root;
  complete(root, "step=100/weights");
  EXPECT_EQ(find_iteration(root / "step=100").folder, root / "step=100/weights");
  EXPECT_EQ(find_iteration(root / "step=100").iteration, std::nullopt);
  EXPECT_EQ(find_iteration(root / "step=100/weights").folder, root / "step=100/weights");
}

TEST(IterationFolder, ErrorsListWhatWasFound) {
  const ScratchFolder root;
  EXPECT_THAT(error_of([&] { resolve_iteration(root / "absent"); }), HasSubstr("does not exist"));
  EXPECT_THAT(error_of([&] { resolve_iteration(root.path()); }), HasSubstr("no iter_* folder"));
  root.file("iter_0000001/model_optim_rng.pt", "x");
  EXPECT_THAT(error_of([&] { resolve_iteration(root.path()); }),
              HasSubstr("iter_0000001: neither .metadata nor metadata.json nor mp_rank_* folders"));
  complete(root, "iter_0000002");
  EXPECT_THAT(error_of([&] { resolve_iteration(root.path(), 3); }),
              testing::AllOf(HasSubstr("of iteration 3"), HasSubstr("iter_0000002")));
  EXPECT_EQ(iteration_folder_name(42), "iter_0000042");
}

}  // namespace
}  // namespace viaduct::formats
