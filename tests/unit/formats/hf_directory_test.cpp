#include "viaduct/formats/hf_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "filled_layout.h"
#include "scratch_folder.h"
#include "viaduct/formats/safetensors_writer.h"

namespace viaduct::formats {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

// A safetensors file that holds U8 tensors of these names.
std::string shard_of(const std::vector<std::string>& names) {
  std::vector<std::pair<StoredTensor, std::vector<std::byte>>> tensors;
  for (const std::string& name : names) {
    const StoredTensor tensor = tensor_of(name, DType::kU8, {3});
    tensors.emplace_back(tensor, made_up_bytes(tensor));
  }
  return safetensors_file(tensors);
}

std::vector<std::string> names_of(const TensorReader& reader) {
  std::vector<std::string> names;
  for (const StoredTensor& tensor : reader.tensors()) names.push_back(tensor.name);
  return names;
}

constexpr const char* kTwoShards =
    R"({"metadata":{"total_size":9,"by":[1,{"x":-1.5e3,"y":null}],"inf":Infinity},"weight_map":{"c":"m-10.safetensors",)"
    R"("a":"m-9.safetensors","b":"m-9.safetensors"},"other":{"weight_map":{"q":1}}})";

std::string open_error(const ScratchFolder& folder) {
  return error_of([&] { open_hf_directory(folder.path()); });
}

TEST(HfDirectory, ReadsTheShardsThatTheIndexLists) {
  const ScratchFolder folder;
  folder.file("m-9.safetensors", shard_of({"b", "a"}));
  folder.file("m-10.safetensors", shard_of({"c"}));
  folder.file("consolidated.safetensors", shard_of({"a", "other"}));
  folder.file("m-11.safetensors", "not even a header");
  folder.file(kHfIndexName, kTwoShards);
  const auto directory = open_hf_directory(folder.path());
  EXPECT_EQ(directory->format(), "safetensors");
  EXPECT_THAT(directory->shard_names(), ElementsAre("m-9.safetensors", "m-10.safetensors"));  // as people count
  EXPECT_THAT(names_of(*directory), ElementsAre("b", "a", "c"));
  EXPECT_EQ(directory->find("c")->chunks[0].file, 1u);
  EXPECT_EQ(directory->files().at(1), folder / "m-10.safetensors");
  EXPECT_EQ(read_tensor(*directory, *directory->find("c")), made_up_bytes(*directory->find("c")));
  EXPECT_EQ(directory->index_text(), kTwoShards);
  EXPECT_EQ(directory->header_text(1), SafetensorsFile(folder / "m-10.safetensors").header().text);
  EXPECT_THAT(directory->metadata(1), ElementsAre(Pair("format", "pt")));
  const HfIndex& index = directory->index();
  EXPECT_EQ(index.metadata.dump(), R"({"total_size": 9, "by": [1, {"x": -1.5e3, "y": null}], "inf": Infinity})");
  EXPECT_THAT(index.shards, ElementsAre("m-10.safetensors", "m-9.safetensors"));
  ASSERT_EQ(index.weight_map.size(), 3u);
  EXPECT_EQ(index.weight_map[0].tensor, "c");
  EXPECT_EQ(index.weight_map[1].tensor, "a");
  EXPECT_EQ(index.shards[index.weight_map[1].shard], "m-9.safetensors");
}

TEST(HfDirectory, NamesWhatTheIndexAndTheShardsDisagreeOn) {
  {
    const ScratchFolder folder;
    folder.file(kHfIndexName, kTwoShards);
    folder.file("m-9.safetensors", shard_of({"b", "a"}));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr(kHfIndexName), HasSubstr("m-10.safetensors"),
                                          HasSubstr("missing"), Not(HasSubstr("m-9."))));
    folder.file("m-10.safetensors", shard_of({"d"}));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr("lists 1 tensor "), HasSubstr("c (m-10.safetensors)")));
    folder.file("m-10.safetensors", shard_of({"c", "d"}));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr("does not list 1 tensor "), HasSubstr("d (m-10.safetensors)")));
    folder.file("m-10.safetensors", shard_of({"c", "a"}));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr("\"a\""), HasSubstr("m-9."), HasSubstr("m-10.")));
    folder.file("m-10.safetensors", shard_of({"b"}));
    folder.file("m-9.safetensors", shard_of({"a", "c"}));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr("\"c\""), HasSubstr("m-9."), HasSubstr("says m-10.")));
    folder.file("m-10.safetensors", shard_of({"c"}).substr(0, 70));
    EXPECT_THAT(open_error(folder), HasSubstr((folder / "m-10.safetensors").string()));
  }
}

TEST(HfDirectory, WithoutAnIndex) {
  {
    const ScratchFolder folder;
    EXPECT_FALSE(has_hf_weights(folder.path()));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr(folder.path().string()), HasSubstr("no weights")));
    folder.file("weights.safetensors", shard_of({"a"}));
    folder.file("more.safetensors", shard_of({"b"}));
    folder.file(".hidden.safetensors", shard_of({"a"}));
    const auto all = open_hf_directory(folder.path());
    EXPECT_THAT(all->shard_names(), ElementsAre("more.safetensors", "weights.safetensors"));
    EXPECT_EQ(all->index_text(), "");
    EXPECT_TRUE(all->index().weight_map.empty());
    folder.file("again.safetensors", shard_of({"c", "b"}));
    EXPECT_THAT(open_error(folder),
                AllOf(HasSubstr("\"b\""), HasSubstr("again.safetensors"), HasSubstr("more.safetensors")));
    folder.file("model.safetensors", shard_of({"m"}));
    EXPECT_THAT(names_of(*open_hf_directory(folder.path())), ElementsAre("m"));
  }
  {
    const ScratchFolder folder;
    folder.file("model-00001-of-00003.safetensors", shard_of({"a"}));
    folder.file("model-00003-of-00003.safetensors", shard_of({"c"}));
    folder.file("consolidated.safetensors", shard_of({"x"}));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr("shard 2 of 3"), HasSubstr("missing")));
    folder.file("model-00002-of-00003.safetensors", shard_of({"b"}));
    EXPECT_THAT(names_of(*open_hf_directory(folder.path())), ElementsAre("a", "b", "c"));
    folder.file("ema-00001-of-00001.safetensors", shard_of({"e"}));
    EXPECT_THAT(open_error(folder), AllOf(HasSubstr("ema-00001"), HasSubstr("model-00001")));
  }
  {
    const ScratchFolder folder;
    folder.file("model-00001-of-999999.safetensors", shard_of({"a"}));
    EXPECT_THAT(open_error(folder), HasSubstr("shard 2 of 999999"));
  }
}

TEST(HfDirectory, FollowsLinksAsTheHubsCacheHasThem) {
  const ScratchFolder folder;
  folder.file("blobs/0123", shard_of({"a"}));
  std::filesystem::create_directories(folder / "snapshot");
  std::filesystem::create_symlink("../blobs/0123", folder / "snapshot/model.safetensors");
  EXPECT_THAT(names_of(*open_hf_directory(folder / "snapshot")), ElementsAre("a"));
  std::filesystem::remove(folder / "blobs/0123");
  EXPECT_FALSE(has_hf_weights(folder / "snapshot"));
}

TEST(HfDirectory, StubsAreReadOnlyThroughWhatHasTheirData) {
  const ScratchFolder whole, stubs;
  const std::string bytes = shard_of({"a", "b"});
  whole.file("model.safetensors", bytes);
  const auto given = open_hf_directory(whole.path());
  write_safetensors_stub(stubs / "model.safetensors", given->header_text(0), bytes.size());
  EXPECT_EQ(std::filesystem::file_size(stubs / "model.safetensors"), bytes.size());
  EXPECT_THAT(open_error(stubs), AllOf(HasSubstr("model.safetensors is a stub"), HasSubstr("viaduct download")));
  EXPECT_THAT(error_of([&] { open_safetensors(stubs / "model.safetensors"); }), HasSubstr("is a stub"));
  const auto read =
      open_hf_directory(stubs.path(), [&](const Path& file, uint64_t offset, std::span<std::byte> to) {
        EXPECT_EQ(file, stubs / "model.safetensors");
        std::memcpy(to.data(), bytes.data() + offset, to.size());
      });
  EXPECT_EQ(read->header_text(0), given->header_text(0));
  ASSERT_THAT(names_of(*read), ElementsAre("a", "b"));
  for (size_t i = 0; i < 2; ++i)
    EXPECT_EQ(read_tensor(*read, read->tensors()[i]), read_tensor(*given, given->tensors()[i]));
}

TEST(HfDirectory, TorchFilesCountWhenThereIsNoSafetensorsModel) {
  const Path fixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/torch";
  const ScratchFolder folder;
  std::filesystem::copy_file(fixtures / "state_dict.bin", folder / "pytorch_model.bin");
  folder.file("adapter.safetensors", shard_of({"stray"}));
  const auto torch = open_hf_directory(folder.path());
  EXPECT_EQ(torch->format(), "torch");
  EXPECT_THAT(torch->shard_names(), ElementsAre("pytorch_model.bin"));
  EXPECT_GT(torch->tensors().size(), 1u);
  EXPECT_EQ(torch->find("stray"), nullptr);
  EXPECT_EQ(torch->header_text(0), "");
  folder.file("model.safetensors", shard_of({"a"}));
  EXPECT_THAT(names_of(*open_hf_directory(folder.path())), ElementsAre("a"));
}

TEST(HfIndex, RefusesWhatIsNoIndex) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"([])", "object"},
      {R"(3)", "object"},
      {R"({"weight_map":{}})", "missing or empty"},
      {R"({"metadata":{}})", "missing or empty"},
      {R"({"weight_map":["a"]})", "\"weight_map\" is no object"},
      {R"({"weight_map":"a"})", "\"weight_map\" is no object"},
      {R"({"weight_map":{"a":3}})", "\"a\""},
      {R"({"weight_map":{"a":{}}})", "object"},
      {R"({"weight_map":{"a":["f"]}})", "\"a\""},
      {R"({"weight_map":{"a":"f","a":"g"}})", "\"a\" stands twice"},
      {R"({"weight_map":{"a":"f"},"weight_map":{"b":"f"}})", "\"weight_map\" stands twice"},
      {R"({"metadata":{},"metadata":{},"weight_map":{"b":"f"}})", "\"metadata\" stands twice"},
      {R"({"metadata":{"k":1,"k":2},"weight_map":{"b":"f"}})", "\"k\""},
      {R"({"metadata":3,"weight_map":{"b":"f"}})", "\"metadata\" is no object"},
      {R"({"weight_map":{"a":"../../etc/passwd"}})", "no file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "no file name"},
      {R"({"weight_map":{"a":".."}})", "no file name"},
      {R"({"weight_map":{"a":""}})", "no file name"},
      {R"({"weight_map":{"a":"f\u0000g"}})", "no file name"},
      {R"({"weight_map":{"\udc00":"f"}})", "UTF-8"},
      {R"({"weight_map":{"a":"f"})", "byte"},
      {"{\"weight_map\":{\"\xFF\":\"f\"}}", "UTF-8"},
      {"{\"metadata\":" + std::string(100'000, '[') + std::string(100'000, ']') + ",\"weight_map\":{\"a\":\"f\"}}",
       "deeper"},
  };
  for (const auto& [text, says] : cases)
    EXPECT_THAT(error_of([&] { parse_hf_index(text, "x.index.json"); }),
                AllOf(HasSubstr("x.index.json"), HasSubstr(says)))
        << text.substr(0, 80);
}

TEST(HfIndex, IsWrittenAsTransformersWritesIt) {
  const std::string text =
      "{\n  \"metadata\": {\n    \"total_parameters\": 3,\n    \"total_size\": 6\n  },\n"
      "  \"weight_map\": {\n    \"a.weight\": \"model-00002-of-00002.safetensors\",\n"
      "    \"b.weight\": \"model-00001-of-00002.safetensors\"\n  }\n}\n";
  HfIndex index = parse_hf_index(text, "test");
  EXPECT_EQ(hf_index_text(index), text);
  std::swap(index.weight_map[0], index.weight_map[1]);
  EXPECT_EQ(hf_index_text(index), text);
}

}  // namespace
}  // namespace viaduct::formats
