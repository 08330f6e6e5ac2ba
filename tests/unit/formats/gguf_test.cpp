#include "viaduct/formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/formats/gguf_builder.h"
#include "viaduct/core/convert.h"

namespace viaduct::formats {
namespace {

using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::TemporaryFile;

const Path kFixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/gguf";

std::string error_of(const std::string& content) {
  const TemporaryFile file(content);
  try {
    open_gguf(file.path());
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr(file.path().string()));
    return error.what();
  }
  return "";
}

// types.gguf is written by the gguf package (tests/golden/gguf_fixtures.py).
TEST(Gguf, reads_every_value_type) {
  const auto file = open_gguf(kFixtures / "types.gguf");
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->alignment(), 32u);
  EXPECT_EQ(file->text("general.architecture"), "made");
  EXPECT_EQ(file->integer("made.uint8"), 200);
  EXPECT_EQ(file->integer("made.int8"), -100);
  EXPECT_EQ(file->integer("made.uint16"), 60000);
  EXPECT_EQ(file->integer("made.int16"), -30000);
  EXPECT_EQ(file->integer("made.uint32"), 4000000000);
  EXPECT_EQ(file->integer("made.int32"), -2000000000);
  EXPECT_EQ(file->integer("made.int64"), -(int64_t{1} << 62));
  EXPECT_THROW(file->integer("made.uint64"), UserError);  // 2^63 + 1
  EXPECT_EQ(file->number("made.uint8"), 200.0);
  EXPECT_EQ(file->number("made.float32"), double{0.1f});
  EXPECT_EQ(file->number("made.float64"), 0.1);
  EXPECT_EQ(file->flag("made.bool"), true);
  EXPECT_EQ(file->text("made.string"), "größe");
  EXPECT_EQ(file->integer("made.absent"), std::nullopt);

  const GgufValue& strings = *file->find_value("made.strings");
  ASSERT_EQ(strings.size(), 3);
  EXPECT_EQ(strings.type(), GgufType::kArray);
  EXPECT_EQ(strings.element_type(), GgufType::kString);
  EXPECT_EQ(strings.string_at(0), "a");
  EXPECT_EQ(strings.string_at(1), "");
  EXPECT_EQ(strings.string_at(2), "日本");
  EXPECT_EQ(file->find_value("made.numbers")->int_at(1), -2);
  EXPECT_EQ(file->find_value("made.floats")->double_at(1), -1.5);
  EXPECT_EQ(file->find_value("made.flags")->bool_at(1), false);
  EXPECT_THROW(strings.string_at(3), UserError);
  EXPECT_THROW(strings.string_at(-1), UserError);
  EXPECT_THROW(strings.int_at(0), UserError);
}

TEST(Gguf, a_value_of_another_type_is_named) {
  const auto file = open_gguf(kFixtures / "types.gguf");
  try {
    file->integer("made.string");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("types.gguf: metadata key made.string: an integer was expected, found string"));
  }
  EXPECT_THROW(file->integer("made.numbers"), UserError);
  EXPECT_THROW(file->integer("made.float64"), UserError);
  EXPECT_THROW(file->flag("made.uint8"), UserError);
  EXPECT_THROW(file->text("made.uint8"), UserError);
}

// types.f32 is what gguf.dequantize makes of the tensors.
TEST(Gguf, tensors_are_dequantised_to_the_gguf_packages_bits) {
  const auto file = open_gguf(kFixtures / "types.gguf");
  const std::string expected = read_text_file(kFixtures / "types.f32");
  const DType types[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};
  ASSERT_EQ(file->tensors().size(), std::size(types));
  size_t at = 0;
  for (size_t i = 0; i < std::size(types); ++i) {
    const StoredTensor& tensor = file->tensors()[i];
    EXPECT_EQ(tensor.name, name(types[i]));
    EXPECT_EQ(tensor.dtype, types[i]);
    EXPECT_EQ(tensor.shape, (Shape{3, 64}));
    EXPECT_EQ(file->find(tensor.name), &tensor);
    const std::vector<std::byte> stored = read_tensor(*file, tensor);
    std::vector<std::byte> values(3 * 64 * 4);
    convert(tensor.dtype, stored.data(), DType::kF32, values.data(), 3 * 64);
    EXPECT_EQ(std::memcmp(values.data(), expected.data() + at, values.size()), 0) << tensor.name;
    at += values.size();
  }
  EXPECT_EQ(at, expected.size());
}

// The same for the formats whose blocks the package only reads: random blocks, with zero, subnormal, largest and
// negative scales among them. What is made as bfloat16 is that float32 rounded.
TEST(Gguf, blocks_of_codes_are_dequantised_to_the_gguf_packages_bits) {
  const auto file = open_gguf(kFixtures / "quants.gguf");
  const std::string expected = read_text_file(kFixtures / "quants.f32");
  const DType types[] = {DType::kQ8_0,   DType::kQ4_0,   DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                         DType::kQ2_K,   DType::kQ3_K,   DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
                         DType::kIQ4_NL, DType::kIQ4_XS, DType::kMXFP4};
  constexpr int64_t kCount = 8 * 512;
  ASSERT_EQ(file->tensors().size(), std::size(types));
  ASSERT_EQ(expected.size(), std::size(types) * kCount * 4);
  for (size_t i = 0; i < std::size(types); ++i) {
    const StoredTensor& tensor = file->tensors()[i];
    ASSERT_EQ(tensor.name, name(types[i]));
    ASSERT_EQ(tensor.dtype, types[i]);
    ASSERT_EQ(tensor.shape, (Shape{8, 512}));
    const std::vector<std::byte> stored = read_tensor(*file, tensor);
    std::vector<std::byte> values(kCount * 4), halves(kCount * 2 + 1), rounded(kCount * 2);
    convert(tensor.dtype, stored.data(), DType::kF32, values.data(), kCount);
    EXPECT_EQ(std::memcmp(values.data(), expected.data() + i * values.size(), values.size()), 0) << tensor.name;
    convert(DType::kF32, values.data(), DType::kBF16, rounded.data(), kCount);
    convert(tensor.dtype, stored.data(), DType::kBF16, halves.data() + 1, kCount);
    EXPECT_EQ(std::memcmp(halves.data() + 1, rounded.data(), rounded.size()), 0) << tensor.name;
  }
}

TEST(Gguf, shapes_are_turned_round_and_data_begins_aligned) {
  GgufBuilder builder;
  builder.alignment = 256;
  builder.u32("general.alignment", 256)
      .f32_tensor("a", {5, 3, 2})
      .f32_tensor("scalar", {})
      .f32_tensor("none", {4, 0});
  const TemporaryFile written(builder.build());
  const auto file = open_gguf(written.path());
  EXPECT_EQ(file->find("a")->shape, (Shape{2, 3, 5}));
  EXPECT_EQ(file->find("scalar")->shape, Shape{});
  EXPECT_EQ(file->find("none")->shape, (Shape{0, 4}));
  const uint64_t begin = file->find("a")->chunks.at(0).byte_offset;
  EXPECT_EQ(begin % 256, 0u);
  EXPECT_EQ(begin, builder.build().size() - builder.data.size());
  EXPECT_EQ(file->find("scalar")->chunks.at(0).byte_offset, begin + 256);
}

TEST(Gguf, version_2_is_read) {
  GgufBuilder builder;
  builder.version = 2;
  builder.f32_tensor("a", {4});
  const TemporaryFile written(builder.build());
  EXPECT_EQ(open_gguf(written.path())->version(), 2u);
  EXPECT_TRUE(is_gguf(written.path()));
  EXPECT_FALSE(is_gguf(Path(VIADUCT_SOURCE_DIR) / "CMakeLists.txt"));
}

TEST(Gguf, arrays_of_arrays) {
  const std::string inner = GgufBuilder::numbers<int32_t>(5, {7, 8});
  GgufBuilder builder;
  builder.entry("nested", 9, GgufBuilder::bytes(uint32_t{9}) + GgufBuilder::bytes(uint64_t{2}) + inner + inner);
  const TemporaryFile written(builder.build());
  const auto file = open_gguf(written.path());
  EXPECT_EQ(file->find_value("nested")->size(), 2);
  EXPECT_EQ(file->find_value("nested")->array_at(1).int_at(1), 8);

  std::string deep = inner;
  for (int i = 0; i < 100; ++i) deep = GgufBuilder::bytes(uint32_t{9}) + GgufBuilder::bytes(uint64_t{1}) + deep;
  EXPECT_THAT(error_of(GgufBuilder().entry("deep", 9, deep).build()), HasSubstr("deep nests arrays deeper than 4"));

  const std::string empty = GgufBuilder::bytes(uint32_t{0}) + GgufBuilder::bytes(uint64_t{0});
  std::string many = GgufBuilder::bytes(uint32_t{9}) + GgufBuilder::bytes(uint64_t{5000});
  for (int i = 0; i < 5000; ++i) many += empty;
  EXPECT_THAT(error_of(GgufBuilder().entry("many", 9, many).build()), HasSubstr("more than 4096 nested arrays"));
}

TEST(GgufRefuses, what_is_no_gguf_of_a_known_version) {
  EXPECT_THAT(error_of(""), HasSubstr("no GGUF file"));
  EXPECT_THAT(error_of("GGU"), HasSubstr("no GGUF file"));
  EXPECT_THAT(error_of("GGML and more"), HasSubstr("no GGUF file"));
  GgufBuilder builder;
  builder.version = 1;
  EXPECT_THAT(error_of(builder.build()), HasSubstr("version 1; versions 2 and 3"));
  builder.version = 4;
  EXPECT_THAT(error_of(builder.build()), HasSubstr("version 4"));
  builder.version = 3u << 24;
  EXPECT_THAT(error_of(builder.build()), HasSubstr("big-endian"));
}

TEST(GgufRefuses, a_file_cut_anywhere) {
  GgufBuilder builder;
  builder.u32("general.alignment", 32).text("key", "text").entry("strings", 9, GgufBuilder::strings({"a", "bc"}));
  builder.entry("numbers", 9, GgufBuilder::numbers<float>(6, {1, 2, 3}))
      .f32_tensor("a", {4})
      .f32_tensor("b", {8, 2});
  const std::string whole = builder.build();
  EXPECT_EQ(error_of(whole), "");
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_NE(error_of(whole.substr(0, size)), "") << size;
  EXPECT_THAT(error_of(whole.substr(0, whole.size() - 1)),
              HasSubstr("tensor b needs 64 bytes at offset 32 of the data"));
}

TEST(GgufRefuses, counts_and_lengths_that_the_file_cannot_hold) {
  GgufBuilder builder;
  builder.f32_tensor("a", {4});
  for (const int64_t claim : {int64_t{2}, int64_t{1} << 40, INT64_MAX}) {
    builder.claimed_tensors = claim;
    EXPECT_NE(error_of(builder.build()), "") << claim;
    builder.claimed_tensors = -1;
    builder.claimed_entries = claim;
    EXPECT_NE(error_of(builder.build()), "") << claim;
    builder.claimed_entries = -1;
  }
  const std::string huge = GgufBuilder::bytes(uint64_t{1} << 62);
  EXPECT_THAT(error_of(GgufBuilder().entry("key", 8, huge).build()), HasSubstr("the value of metadata key key"));
  for (const uint32_t type : {0u, 4u, 8u, 9u, 12u})
    EXPECT_THAT(error_of(GgufBuilder().entry("key", 9, GgufBuilder::bytes(type) + huge).build()),
                HasSubstr("key claims an array of 4611686018427387904 values"));
  GgufBuilder long_name;
  long_name.text(std::string(5000, 'k'), "");
  EXPECT_THAT(error_of(long_name.build()), HasSubstr("a metadata key has 5000 bytes"));
}

TEST(GgufRefuses, metadata_that_makes_no_sense) {
  EXPECT_THAT(error_of(GgufBuilder().u32("a", 1).u32("a", 2).build()), HasSubstr("metadata key a occurs twice"));
  EXPECT_THAT(error_of(GgufBuilder().entry("a", 13, "").build()), HasSubstr("value type 13"));
  EXPECT_THAT(error_of(GgufBuilder().u32("\xff", 1).build()), HasSubstr("not UTF-8"));
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 30})
    EXPECT_THAT(error_of(GgufBuilder().u32("general.alignment", alignment).build()),
                HasSubstr("general.alignment is"));
  EXPECT_THAT(error_of(GgufBuilder().text("general.alignment", "32").build()), HasSubstr("general.alignment"));
}

TEST(GgufRefuses, tensors_that_make_no_sense) {
  const auto with = [](auto change) {
    GgufBuilder builder;
    builder.data = std::string(256, '\0');
    change(builder);
    return error_of(builder.build());
  };
  EXPECT_EQ(with([](GgufBuilder& b) { b.tensor_at("a", {8}, 0, 0).tensor_at("b", {8}, 0, 32); }), "");
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {8}, 0, 0).tensor_at("a", {8}, 0, 32); }),
              HasSubstr("tensor a occurs twice"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {9}, 0, 0).tensor_at("b", {8}, 0, 32); }),
              HasSubstr("tensors a and b overlap"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {8}, 0, 64).tensor_at("b", {24}, 0, 0); }),
              HasSubstr("tensors b and a overlap"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {8}, 0, 16); }),
              HasSubstr("no multiple of the alignment 32"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {8}, 0, 256); }), HasSubstr("cut short"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {8}, 0, ~uint64_t{31}); }), HasSubstr("cut short"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {1, 1, 1, 1, 1}, 0, 0); }), HasSubstr("5 axes"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {~uint64_t{0}}, 0, 0); }), HasSubstr("along an axis"));
  EXPECT_NE(with([](GgufBuilder& b) { b.tensor_at("a", {1ull << 32, 1ull << 32}, 0, 0); }), "");
  EXPECT_NE(with([](GgufBuilder& b) { b.tensor_at("a", {1ull << 62}, 0, 0); }), "");
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {48}, 8, 0); }), HasSubstr("no multiple of 32"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("a", {288}, 12, 0); }),
              HasSubstr("tensor a of type Q4_K has rows of 288 elements, no multiple of 256"));
  EXPECT_THAT(with([](GgufBuilder& b) { b.tensor_at("\xc0", {8}, 0, 0); }), HasSubstr("not UTF-8"));
}

TEST(GgufRefuses, other_tensor_types_by_name) {
  const auto of_type = [](uint32_t type) {
    GgufBuilder builder;
    builder.data = std::string(256, '\0');
    return error_of(builder.tensor_at("a", {256}, type, 0).build());
  };
  EXPECT_THAT(
      of_type(19),
      HasSubstr("tensor a has type IQ1_S, which cannot be read here. Supported types: F32, F16, "
                "BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4;"));
  EXPECT_THAT(of_type(9), HasSubstr("type Q8_1"));
  EXPECT_THAT(of_type(28), HasSubstr("type F64"));
  EXPECT_THAT(of_type(40), HasSubstr("type NVFP4"));
  EXPECT_THAT(of_type(4), HasSubstr("has type 4, which"));
  EXPECT_THAT(of_type(~0u), HasSubstr("type 4294967295"));
}

}  // namespace
}  // namespace viaduct::formats
