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

TEST(IterationFolder, ErrorsListWhatWasFound) {
  const ScratchFolder root;
  EXPECT_THAT(error_of([&] { resolve_iteration(root / "absent"); }), HasSubstr("does not exist"));
  EXPECT_THAT(error_of([&] { resolve_iteration(root.path()); }), HasSubstr("no iter_* folder"));
  root.file("iter_0000001/mp_rank_00/model_optim_rng.pt", "x");
  EXPECT_THAT(error_of([&] { resolve_iteration(root.path()); }), HasSubstr("iter_0000001: Megatron-LM's legacy"));
  complete(root, "iter_0000002");
  EXPECT_THAT(error_of([&] { resolve_iteration(root.path(), 3); }),
              testing::AllOf(HasSubstr("of iteration 3"), HasSubstr("iter_0000002")));
  EXPECT_EQ(iteration_folder_name(42), "iter_0000042");
}

}  // namespace
}  // namespace viaduct::formats
