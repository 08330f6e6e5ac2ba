#include "viaduct/data/index_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/formats/scratch_folder.h"

namespace viaduct::data {
namespace {

using formats::error_of;
using formats::ScratchFolder;
using ::testing::HasSubstr;

// json.dumps({"path": ...}, indent=4) of Python 3.12, os.fsdecode applied to the last one.
TEST(IndexCache, DescriptionsEscapeAsPythonDoes) {
  const auto text = [](std::string path) {
    Json json = Json::object();
    json.set("path", std::move(path));
    return description_text(json);
  };
  EXPECT_EQ(text("a\"b\\c\n"), "{\n    \"path\": \"a\\\"b\\\\c\\n\"\n}");
  EXPECT_EQ(text("größe\x7f"), "{\n    \"path\": \"gr\\u00f6\\u00dfe\\u007f\"\n}");
  EXPECT_EQ(text("語😀"), "{\n    \"path\": \"\\u8a9e\\ud83d\\ude00\"\n}");
  EXPECT_EQ(text("x\xff\xc3y"), "{\n    \"path\": \"x\\udcff\\udcc3y\"\n}");
}

TEST(IndexCache, IsThereWhenAllFilesAre) {
  const ScratchFolder folder;
  const IndexCache cache(folder.path(), "description", "GPTDataset", "train");
  EXPECT_EQ(cache.array("sample_index").filename(),
            "67daf92c833c41c95db874e18fcb2786-GPTDataset-train-sample_index.npy");
  EXPECT_FALSE(cache.has({"sample_index"}));
  cache.write_description();
  EXPECT_FALSE(cache.has({"sample_index"}));
  write_file(cache.array("sample_index"), "x");
  EXPECT_TRUE(cache.has({"sample_index"}));
  write_file(folder / "67daf92c833c41c95db874e18fcb2786-GPTDataset-train-description.txt", "other");
  EXPECT_THAT(error_of([&] { cache.has({"sample_index"}); }), HasSubstr("remove it"));
}

TEST(IndexCache, FolderThatCannotBeMade) {
  const ScratchFolder folder;
  const Path file = folder.file("file", "");
  EXPECT_THAT(error_of([&] { IndexCache(file / "cache", "d", "GPTDataset", "train").make_folder(); }),
              HasSubstr("path_to_cache"));
}

}  // namespace
}  // namespace viaduct::data
