#include "viaduct/formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "filled_layout.h"
#include "scratch_folder.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/hf_index.h"
#include "viaduct/formats/safetensors_writer.h"

namespace viaduct::formats {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const Path kFixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/safetensors";

std::string with_length(const std::string& header, const std::string& data = "") {
  uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

SafetensorsHeader header_of(const std::string& file) {
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  return parse_safetensors_header(file.substr(8, length), file.size(), "written");
}

Shape shape_of(const Json& json) {
  Shape shape;
  for (const Json& size : json.items()) shape.push_back(size.as_int());
  return shape;
}

// ---- reading

TEST(Safetensors, ReadsWhatTheReferenceLibraryReads) {
  const Json expected = Json::parse(read_text_file(kFixtures / "expected.json"), "expected.json");
  const SafetensorsFile file(kFixtures / "types.safetensors");
  const auto& tensors = expected.at("tensors").members();
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, wanted] : tensors) {
    const StoredTensor* found = file.find(name);
    ASSERT_TRUE(found) << name;
    EXPECT_EQ(viaduct::name(found->dtype), wanted.at("dtype").as_string()) << name;
    EXPECT_EQ(found->shape, shape_of(wanted.at("shape"))) << name;
    EXPECT_EQ(crc32(read_tensor(file, *found)), wanted.at("crc32").as_int()) << name;
  }
  const auto& metadata = expected.at("metadata").members();
  ASSERT_EQ(file.header().metadata.size(), metadata.size());
  for (const auto& [key, value] : file.header().metadata)
    EXPECT_EQ(expected.at("metadata").at(key).as_string(), value);
}

TEST(Safetensors, KeepsTheHeaderTextAndOrdersByOffset) {
  const std::string bytes = read_text_file(kFixtures / "types.safetensors");
  const SafetensorsFile file(kFixtures / "types.safetensors");
  const SafetensorsHeader& header = file.header();
  EXPECT_EQ(bytes.substr(8, header.data_start - 8), header.text);
  EXPECT_EQ(header.data_start + header.data_size, bytes.size());
  for (size_t i = 1; i < header.tensors.size(); ++i)
    EXPECT_LE(header.tensors[i - 1].chunks[0].byte_offset, header.tensors[i].chunks[0].byte_offset);
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  // Any order in the header, empty tensors where two others meet, sub-byte types, no tensors at all, null metadata.
  const std::string text =
      R"({"b":{"shape":[2],"dtype":"F4","data_offsets":[6,7]}, "empty":{"dtype":"F32","shape":[0,3],)"
      R"("data_offsets":[3,3]},"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},)"
      R"("c":{"dtype":"U8","shape":[3],"data_offsets":[3,6]},"__metadata__":null}   )";
  const SafetensorsHeader header = parse_safetensors_header(text, 8 + text.size() + 7, "test");
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[1].name, "empty");
  EXPECT_EQ(header.tensors[2].name, "c");
  EXPECT_EQ(header.tensors[3].chunks[0].byte_offset, 8 + text.size() + 6);
  EXPECT_TRUE(parse_safetensors_header("{}", 10, "test").tensors.empty());
  const std::string escaped = R"({"\u00e9\n":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})";
  EXPECT_EQ(parse_safetensors_header(escaped, 8 + escaped.size() + 1, "test").tensors[0].name, "é\n");
}

struct Refused {
  const char* what;
  std::string header;
  uint64_t data;
  std::vector<const char*> says;
};

TEST(Safetensors, RefusesDamagedHeadersByName) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::vector<Refused> cases = {
      {"truncated data", "{" + a + "}", 3, {"\"a\"", "[0, 4]", "3 data bytes"}},
      {"bytes behind", "{" + a + "}", 6, {"2 bytes behind", "ends at byte"}},
      {"gap", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6, {"\"a\"", "belong to no tensor"}},
      {"overlap",
       "{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
       6,
       {"\"a\"", "\"b\"", "overlap"}},
      {"size",
       R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})",
       4,
       {"\"a\"", "F32 [2]", "8 bytes", "give 4"}},
      {"twice", "{" + a + R"(,"a":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})", 6, {"\"a\"", "twice"}},
      {"field twice",
       R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       4,
       {"\"dtype\" stands twice"}},
      {"metadata twice", R"({"__metadata__":{"k":"1","k":"2"},)" + a + "}", 4, {"\"k\"", "twice"}},
      {"two metadatas", R"({"__metadata__":{},"__metadata__":{},)" + a + "}", 4, {"__metadata__", "twice"}},
      {"metadata value", R"({"__metadata__":{"k":1},)" + a + "}", 4, {"\"k\"", "a number"}},
      {"backwards", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4, {"\"a\"", "[4, 0]"}},
      {"negative", R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})", 4, {"\"a\"", "shape"}},
      {"fraction", R"({"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}})", 4, {"\"a\"", "whole number"}},
      {"beyond 64 bits",
       R"({"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]}})",
       4,
       {"\"a\""}},
      {"overflow",
       R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
       0,
       {"\"a\"", "63 bits"}},
      {"bytes overflow",
       R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})",
       0,
       {"\"a\""}},
      {"part of a byte", R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2, {"\"a\"", "F4 [3]"}},
      {"rank", R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1, {"\"a\"", "8 axes"}},
      {"dtype", R"({"a":{"dtype":"F33","shape":[4],"data_offsets":[0,4]}})", 4, {"\"a\"", "F33"}},
      {"another format's dtype", R"({"a":{"dtype":"Q8_0","shape":[32],"data_offsets":[0,34]}})", 34, {"Q8_0"}},
      {"no dtype", R"({"a":{"shape":[4],"data_offsets":[0,4]}})", 4, {"\"a\"", "lacks \"dtype\""}},
      {"no shape", R"({"a":{"dtype":"U8","data_offsets":[0,4]}})", 4, {"\"a\"", "lacks \"shape\""}},
      {"one offset", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4]}})", 4, {"\"a\"", "data_offsets"}},
      {"three offsets",
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}})",
       4,
       {"\"a\"", "more than two"}},
      {"unknown field", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}})", 4, {"\"a\"", "\"x\""}},
      {"not an object", R"({"a":7})", 0, {"\"a\"", "a number"}},
      {"nested", R"({"a":{"dtype":{},"shape":[4],"data_offsets":[0,4]}})", 4, {"\"a\"", "an object"}},
      {"deep", "{\"a\":" + std::string(100'000, '['), 0, {"\"a\"", "an array"}},
      {"array", "[1]", 0, {"begin with {"}},
      {"nothing", "", 0, {"begin with {"}},
      {"blank first", " {}", 0, {"begin with {"}},
      {"cut", "{" + a, 4, {"not JSON", "byte"}},
      {"two documents", "{" + a + "}{}", 4, {"not JSON", "byte"}},
      {"not UTF-8", "{\"\xC3(\":{}}", 0, {"UTF-8"}},
      {"half a surrogate pair", R"({"\udc00":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1, {"UTF-8"}},
  };
  for (const Refused& refused : cases) {
    const uint64_t size = 8 + refused.header.size() + refused.data;
    const std::string error =
        error_of([&] { parse_safetensors_header(refused.header, size, "dir/x.safetensors"); });
    EXPECT_THAT(error, HasSubstr("dir/x.safetensors")) << refused.what;
    for (const char* says : refused.says) EXPECT_THAT(error, HasSubstr(says)) << refused.what;
  }
}

TEST(Safetensors, RefusesLengthsThatDoNotFitTheFile) {
  const ScratchFolder scratch;
  const std::string good = with_length(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "wxyz");
  EXPECT_EQ(error_of([&] { SafetensorsFile(scratch.file("good.safetensors", good)); }), "");
  // Cut anywhere, the file is refused and named.
  for (size_t size = 0; size < good.size(); ++size) {
    const Path path = scratch.file("cut.safetensors", good.substr(0, size));
    EXPECT_THAT(error_of([&] { SafetensorsFile file(path); }), HasSubstr(path.string())) << size;
  }
  std::string huge = good;
  huge[7] = '\x7F';
  EXPECT_THAT(error_of([&] { SafetensorsFile(scratch.file("huge.safetensors", huge)); }),
              HasSubstr("bytes 0 to 8"));
  // Within the file but beyond what the reference implementation reads.
  std::string above = good;
  const uint64_t length = kMaxSafetensorsHeader + 1;
  std::memcpy(above.data(), &length, 8);
  const Path sparse = scratch.file("sparse.safetensors", above);
  File::open(sparse, File::Mode::kWrite).resize(length + 100);
  EXPECT_THAT(error_of([&] { SafetensorsFile file(sparse); }), HasSubstr("100000001"));
}

TEST(Safetensors, IsRecognisedByItsFirstBytes) {
  const ScratchFolder scratch;
  EXPECT_TRUE(is_safetensors_file(scratch.file("blob", with_length("{}"))));
  EXPECT_TRUE(is_safetensors_file(scratch.file("empty.safetensors", "")));
  EXPECT_FALSE(is_safetensors_file(scratch.file("config.json", R"({"architectures": []})")));
  EXPECT_FALSE(is_safetensors_file(scratch.path()));
}

TEST(Safetensors, FindIsSafeFromSeveralThreads) {
  const SafetensorsFile file(kFixtures / "types.safetensors");
  std::vector<std::thread> threads;
  std::vector<const StoredTensor*> found(4);
  for (size_t i = 0; i < found.size(); ++i) threads.emplace_back([&, i] { found[i] = file.find("bool"); });
  for (std::thread& thread : threads) thread.join();
  for (const StoredTensor* tensor : found) EXPECT_EQ(tensor, file.find("bool"));
  EXPECT_NE(found[0], nullptr);
  EXPECT_EQ(file.find("boo"), nullptr);
}

// ---- writing

TEST(SafetensorsWriter, WhatItLaysOutReadsBackTheSame) {
  const std::vector<StoredTensor> tensors = {
      tensor_of("w", DType::kBF16, {3, 5}),    tensor_of("scalar", DType::kF32, {}),
      tensor_of("empty", DType::kF16, {0, 7}), tensor_of("fp8 \"q\"\n", DType::kF8E4M3, {3, 3}),
      tensor_of("ünï", DType::kI64, {2}),      tensor_of("f4", DType::kF4, {4, 2}),
      tensor_of("f6", DType::kF6E3M2, {8}),    tensor_of("c", DType::kC64, {1}),
  };
  SafetensorsWriter writer({});
  for (const StoredTensor& tensor : tensors) writer.add(tensor);
  const TargetLayout layout = writer.finish();
  EXPECT_EQ(writer.index_text(), "");
  ASSERT_EQ(layout.files.size(), 1u);
  EXPECT_EQ(layout.files[0].name, "model.safetensors");
  const std::string bytes = fill(layout, made_up_bytes).at(0);
  const ScratchFolder scratch;
  const SafetensorsFile file(scratch.file("model.safetensors", bytes));
  EXPECT_EQ(file.header().data_start % 8, 0u);
  EXPECT_THAT(file.header().metadata, testing::ElementsAre(testing::Pair("format", "pt")));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const StoredTensor& tensor : tensors) {
    const StoredTensor* found = file.find(tensor.name);
    ASSERT_TRUE(found) << tensor.name;
    EXPECT_EQ(found->dtype, tensor.dtype);
    EXPECT_EQ(found->shape, tensor.shape);
    EXPECT_EQ(read_tensor(file, *found), made_up_bytes(tensor)) << tensor.name;
    const auto unit = static_cast<uint64_t>(is_byte_sized(tensor.dtype) ? element_size(tensor.dtype) : 1);
    EXPECT_EQ(found->chunks[0].byte_offset % unit, 0u) << tensor.name;
  }
}

std::vector<std::string> names_in_order(const TargetLayout& layout) {
  std::vector<const StoredTensor*> tensors;
  for (const StoredTensor& tensor : layout.tensors) tensors.push_back(&tensor);
  std::sort(tensors.begin(), tensors.end(), [](const auto* a, const auto* b) {
    return std::pair(a->chunks[0].file, a->chunks[0].byte_offset) <
           std::pair(b->chunks[0].file, b->chunks[0].byte_offset);
  });
  std::vector<std::string> names;
  for (const StoredTensor* tensor : tensors) names.push_back(tensor->name);
  return names;
}

TEST(SafetensorsWriter, KeepsTheOrderUnlessATensorWouldBeginOffItsElementSize) {
  SafetensorsWriter even({});
  for (const char* name : {"z", "a", "m"}) even.add(tensor_of(name, DType::kBF16, {3}));
  EXPECT_EQ(names_in_order(even.finish()), (std::vector<std::string>{"z", "a", "m"}));
  SafetensorsWriter odd({});
  odd.add(tensor_of("mask", DType::kBool, {3}));
  odd.add(tensor_of("bf16", DType::kBF16, {3}));
  odd.add(tensor_of("f32", DType::kF32, {3}));
  EXPECT_EQ(names_in_order(odd.finish()), (std::vector<std::string>{"f32", "bf16", "mask"}));
}

TEST(SafetensorsWriter, SplitsBySizeWithTransformersNames) {
  SafetensorsWriterOptions options;
  options.max_shard_size = 100;
  SafetensorsWriter writer(options);
  // 40 + 40 | 40 | 120 (larger than a shard, alone) | 60 + 40 (exactly full)
  int i = 0;
  for (int64_t bytes : {40, 40, 40, 120, 60, 40})
    writer.add(tensor_of("t" + std::to_string(i++), DType::kU8, {bytes}));
  const TargetLayout layout = writer.finish();
  ASSERT_EQ(layout.files.size(), 4u);
  EXPECT_EQ(layout.files[0].name, "model-00001-of-00004.safetensors");
  EXPECT_EQ(layout.files[3].name, "model-00004-of-00004.safetensors");
  std::vector<uint32_t> shards;
  for (const StoredTensor& tensor : layout.tensors) shards.push_back(tensor.chunks[0].file);
  EXPECT_EQ(shards, (std::vector<uint32_t>{0, 0, 1, 2, 3, 3}));
  fill(layout, made_up_bytes);
  const HfIndex index = parse_hf_index(writer.index_text(), "index");
  EXPECT_EQ(index.metadata.at("total_size").as_int(), 340);
  ASSERT_EQ(index.weight_map.size(), 6u);
  EXPECT_EQ(index.shards.at(index.weight_map[3].shard), "model-00003-of-00004.safetensors");
}

// The source's shards, its headers and its index, as export has them.
struct Source {
  SafetensorsWriterOptions options;
  std::vector<std::pair<StoredTensor, uint32_t>> tensors;
};

Source two_shards() {
  Source source;
  source.options.shards = {
      {"b.safetensors",
       R"({"y":{"dtype":"BF16","shape":[2],"data_offsets":[2,6]},"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}})"},
      {"a.safetensors",
       R"({"__metadata__":{"format":"pt","by":"someone"},"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} )"}};
  source.options.index_text =
      "{\"weight_map\": {\"z\": \"a.safetensors\",\n \"y\": \"b.safetensors\", \"x\": \"b.safetensors\"}, "
      "\"metadata\": {\"total_parameters\": 4, \"total_size\": 10}}";
  source.tensors = {{tensor_of("x", DType::kBF16, {1}), 0},
                    {tensor_of("y", DType::kBF16, {2}), 0},
                    {tensor_of("z", DType::kF32, {1}), 1}};
  return source;
}

TEST(SafetensorsWriter, KeepsTheSourcesTextWhereItStillHolds) {
  Source source = two_shards();
  SafetensorsWriter writer(source.options);
  // Given in another order than the source has them.
  for (size_t i : {2, 1, 0}) writer.add(source.tensors[i].first, source.tensors[i].second);
  const TargetLayout layout = writer.finish();
  ASSERT_EQ(layout.files.size(), 2u);
  EXPECT_EQ(layout.files[0].name, "b.safetensors");
  EXPECT_EQ(layout.literals[0].bytes.view(), with_length(source.options.shards[0].header));
  EXPECT_EQ(layout.literals[1].bytes.view(), with_length(source.options.shards[1].header));
  EXPECT_EQ(writer.index_text(), source.options.index_text);
  EXPECT_EQ(names_in_order(layout), (std::vector<std::string>{"x", "y", "z"}));
  fill(layout, made_up_bytes);
}

TEST(SafetensorsWriter, ReplacesTheSourcesTextWhereItNoLongerHolds) {
  // Another dtype, another shape, another name, a tensor less or more: the first shard gets a header of its own.
  for (int change = 0; change < 5; ++change) {
    Source source = two_shards();
    if (change == 0) source.tensors[1].first.dtype = DType::kF16;
    if (change == 1) source.tensors[1].first.shape = {2, 1};
    if (change == 2) source.tensors[1].first.name = "yy";
    if (change == 3) source.tensors.erase(source.tensors.begin() + 1);
    if (change == 4) source.tensors.push_back({tensor_of("w", DType::kBF16, {0}), 0});
    SafetensorsWriter writer(source.options);
    for (const auto& [tensor, shard] : source.tensors) writer.add(tensor, shard);
    const TargetLayout layout = writer.finish();
    const std::vector<std::string> files = fill(layout, made_up_bytes);
    EXPECT_NE(files[0].substr(8, source.options.shards[0].header.size()), source.options.shards[0].header)
        << change;
    EXPECT_EQ(files[1].substr(8, source.options.shards[1].header.size()), source.options.shards[1].header)
        << change;
    const HfIndex index = parse_hf_index(writer.index_text(), "index");
    // Same names in the same shards: the index keeps what else it says.
    EXPECT_EQ(index.metadata.contains("total_parameters"), change < 2) << change;
    EXPECT_EQ(index.metadata.at("total_size").as_int(), change == 3 ? 6 : 10) << change;
    EXPECT_EQ(index.weight_map.size(), source.tensors.size()) << change;
    for (const StoredTensor& tensor : header_of(files[0]).tensors)
      EXPECT_THAT(writer.index_text(), HasSubstr("\"" + tensor.name + "\""));
  }
}

TEST(SafetensorsWriter, LeavesOutAShardWithoutTensors) {
  Source source = two_shards();
  SafetensorsWriter writer(source.options);
  writer.add(source.tensors[2].first, 1);
  const TargetLayout layout = writer.finish();
  ASSERT_EQ(layout.files.size(), 1u);
  EXPECT_EQ(layout.files[0].name, "a.safetensors");
  EXPECT_EQ(layout.tensors[0].chunks[0].file, 0u);
  EXPECT_THAT(writer.index_text(), testing::Not(HasSubstr("b.safetensors")));
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  SafetensorsWriter writer({});
  EXPECT_THAT(error_of([&] { writer.add(tensor_of("q", DType::kQ8_0, {32})); }),
              AllOf(HasSubstr("q"), HasSubstr("Q8_0")));
  EXPECT_THAT(error_of([&] { writer.add(tensor_of("c", DType::kC128, {1})); }), HasSubstr("C128"));
  EXPECT_THAT(error_of([&] { writer.add(tensor_of("__metadata__", DType::kU8, {1})); }), HasSubstr("__metadata__"));
  StoredTensor two = tensor_of("two", DType::kU8, {2});
  two.chunks.resize(2);
  EXPECT_THAT(error_of([&] { writer.add(two); }), HasSubstr("two"));
  writer.add(tensor_of("same", DType::kU8, {1}));
  writer.add(tensor_of("same", DType::kU8, {1}));
  EXPECT_THAT(error_of([&] { writer.finish(); }), AllOf(HasSubstr("same"), HasSubstr("twice")));
}

TEST(SafetensorsWriter, MetadataIsTheCallers) {
  SafetensorsWriterOptions options;
  options.metadata = {};
  SafetensorsWriter plain(options);
  plain.add(tensor_of("a", DType::kU8, {1}));
  EXPECT_EQ(plain.finish().literals[0].bytes.view().substr(8, 5), "{\"a\":");
  options.metadata = {{"k\"", "v\n"}, {"format", "np"}};
  SafetensorsWriter two(options);
  const std::string file = fill(two.finish(), made_up_bytes).at(0);
  EXPECT_THAT(header_of(file).metadata,
              testing::ElementsAre(testing::Pair("k\"", "v\n"), testing::Pair("format", "np")));
}

}  // namespace
}  // namespace viaduct::formats
