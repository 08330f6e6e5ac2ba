#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "filled_layout.h"
#include "scratch_folder.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const Path kFixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures";

TEST(Registry, OpensEachFormatByLookingAtIt) {
  const ScratchFolder scratch;
  const Path golden = VIADUCT_GOLDEN_DIR;
  EXPECT_EQ(open_reader(kFixtures / "safetensors/types.safetensors")->format(), "safetensors");
  EXPECT_EQ(open_reader(kFixtures / "gguf/types.gguf")->format(), "gguf");
  EXPECT_EQ(open_reader(kFixtures / "torch/state_dict.bin")->format(), "torch");
  EXPECT_EQ(open_reader(golden / "families/llama/hf")->format(), "safetensors");
  EXPECT_EQ(open_reader(golden / "families/llama/megatron/iter_0000000")->format(), "torch_dist");
  // The content decides where the name says nothing.
  std::filesystem::copy_file(kFixtures / "safetensors/types.safetensors", scratch / "one");
  std::filesystem::copy_file(kFixtures / "gguf/types.gguf", scratch / "two");
  std::filesystem::copy_file(kFixtures / "torch/state_dict.bin", scratch / "three");
  EXPECT_EQ(open_reader(scratch / "one")->format(), "safetensors");
  EXPECT_EQ(open_reader(scratch / "two")->format(), "gguf");
  EXPECT_EQ(open_reader(scratch / "three")->format(), "torch");
}

TEST(Registry, SaysWhatItLookedFor) {
  const ScratchFolder scratch;
  EXPECT_THAT(error_of([&] { open_reader(scratch / "nowhere"); }),
              AllOf(HasSubstr("nowhere"), HasSubstr("not exist")));
  const auto known = AllOf(HasSubstr("safetensors"), HasSubstr("GGUF"), HasSubstr("torch.save"),
                           HasSubstr("torch_dist"), HasSubstr("Hugging Face"));
  EXPECT_THAT(error_of([&] { open_reader(scratch.path()); }), AllOf(HasSubstr(scratch.path().string()), known));
  EXPECT_THAT(error_of([&] { open_reader(scratch.file("notes.txt", "hello")); }),
              AllOf(HasSubstr("notes.txt"), known));
  EXPECT_THAT(error_of([&] { open_reader(scratch.file("empty", "")); }), known);
}

}  // namespace
}  // namespace viaduct::formats
