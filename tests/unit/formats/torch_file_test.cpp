#include "viaduct/formats/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scratch_folder.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/pickle_writer.h"
#include "viaduct/formats/zip_archive.h"

namespace viaduct::formats {
namespace {

using testing::HasSubstr;

const Path kFixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/torch";

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

Json expected() { return Json::parse(read_text_file(kFixtures / "expected.json"), "expected.json"); }

// An archive with this pickle and one storage.
std::string archive_of(const std::string& pickle, std::string_view storage = "") {
  ZipWriter writer(ZipStyle::kTorch);
  writer.add("archive/data.pkl", pickle);
  writer.add("archive/data/0", storage);
  writer.add("archive/version", "3\n");
  return writer.finish().head;
}

// What torch.load gives for the same file: names, types, shapes and every element.
TEST(TorchFile, ReadsWhatTorchReads) {
  const Json all = expected();
  for (const char* name : {"dtypes.pt", "views.pt", "state_dict.bin", "protocol4.pt"}) {
    const std::unique_ptr<TensorReader> reader = open_torch_file(kFixtures / name);
    const Json& tensors = all.at(name);
    ASSERT_EQ(reader->tensors().size(), tensors.members().size()) << name;
    for (size_t i = 0; i < tensors.members().size(); ++i) {
      const auto& [key, entry] = tensors.members()[i];
      const StoredTensor& tensor = reader->tensors()[i];
      EXPECT_EQ(tensor.name, key);
      EXPECT_EQ(torch_name(tensor.dtype), entry.items()[0].as_string()) << key;
      Shape shape;
      for (const Json& size : entry.items()[1].items()) shape.push_back(size.as_int());
      EXPECT_EQ(tensor.shape, shape) << key;
      EXPECT_EQ(crc32(read_tensor(*reader, tensor)), static_cast<uint32_t>(entry.items()[2].as_int())) << key;
    }
  }
}

TEST(TorchFile, SharedStoragesAreReadWhereTheyLie) {
  const std::unique_ptr<TensorReader> reader = open_torch_file(kFixtures / "state_dict.bin");
  EXPECT_EQ(reader->find("0.weight")->chunks[0].byte_offset, reader->find("1.weight")->chunks[0].byte_offset);
}

TEST(TorchFile, RefusesClearly) {
  const auto error = [](const char* name) { return error_of([&] { open_torch_file(kFixtures / name); }); };
  EXPECT_THAT(error("legacy.bin"), HasSubstr("before version 1.6"));
  EXPECT_THAT(error("deflated.pt"), HasSubstr("compressed"));
  EXPECT_THAT(error("quantized.pt"), HasSubstr("_rebuild_qtensor"));
  EXPECT_THAT(error("hidden.pt"), HasSubstr("tensor inside of 'inner'"));
  EXPECT_THAT(error("os_system.pt"), HasSubstr("os.system"));
  EXPECT_THAT(error("unknown_class.pt"), HasSubstr("__main__.Unknown"));
  EXPECT_THAT(error("expected.json"), HasSubstr("not a zip archive"));
  EXPECT_EQ(open_torch_file(kFixtures / "unknown_class.pt", {.unknown_classes = true})->tensors().size(), 1u);
  EXPECT_THAT(error_of([&] { open_torch_file(kFixtures / "os_system.pt", {.unknown_classes = true}); }),
              HasSubstr("os.system"));
}

TEST(TorchFile, RecognisesItself) {
  EXPECT_TRUE(is_torch_file(kFixtures / "views.pt"));
  EXPECT_TRUE(is_torch_file(kFixtures / "legacy.bin"));
  EXPECT_FALSE(is_torch_file(kFixtures / "expected.json"));
  EXPECT_FALSE(is_torch_file(kFixtures));
}

TEST(TorchObject, EveryKindOfValue) {
  const PickleValue value = read_torch_object(kFixtures / "objects.pt");
  EXPECT_TRUE(value.at("none").is_none());
  EXPECT_TRUE(value.at("true").as_bool());
  EXPECT_EQ(value.at("int").as_int(), -7);
  EXPECT_EQ(value.at("long").as_int(), int64_t{1} << 40);
  EXPECT_EQ(value.at("negative").as_int(), -(int64_t{1} << 33));
  EXPECT_EQ(value.at("big").text(), std::string(10, '\0') + '\x01');
  EXPECT_EQ(value.at("float").as_double(), 0.1);
  EXPECT_EQ(value.at("text").as_string(), "naïve ☃");
  std::string every_byte;
  for (int i = 0; i < 256; ++i) every_byte += static_cast<char>(i);
  EXPECT_EQ(value.at("bytes").text(), every_byte);
  EXPECT_EQ(value.at("list").to_text(), "[1, [2, []]]");
  EXPECT_EQ(value.at("tuple").to_text(), "(1, 2, 3, 4)");
  EXPECT_EQ(value.at("set").items().at(0).as_int(), 5);
  EXPECT_EQ(value.at("ordered").to_text(), "{'z': 1, 'a': 2}");
  EXPECT_EQ(value.at("size").to_text(), "(2, 3)");
  EXPECT_EQ(value.at("dtype").text(), "torch.bfloat16");
  EXPECT_EQ(value.at("args").text(), "argparse.Namespace");
  EXPECT_EQ(value.at("args").at("lr").as_double(), 0.5);
  EXPECT_EQ(value.at("tensor").as_tensor().shape, Shape({2}));
  EXPECT_EQ(value.at("tensor").as_tensor().bytes[8], 2);
  EXPECT_EQ(value.members().back().first.as_int(), 3);
  EXPECT_THAT(error_of([&] { value.at("absent"); }), HasSubstr("'absent' is missing"));
  EXPECT_THAT(error_of([&] { value.at("text").as_int(); }), HasSubstr("expected an int"));
}

TEST(TorchObject, ViewsAreGathered) {
  const PickleValue value = read_torch_object(kFixtures / "views.pt");
  const Json all = expected();
  for (const char* name : {"base", "transposed", "columns", "steps", "permuted", "last"})
    EXPECT_EQ(crc32(bytes_of(value.at(name).as_tensor().bytes)),
              static_cast<uint32_t>(all.at("views.pt").at(name).items()[2].as_int()))
        << name;
}

TEST(TorchObject, WritesBackTorchsBytes) {
  for (const char* name : {"dtypes", "protocol4"}) {
    const std::string file = read_text_file(kFixtures / (std::string(name) + ".pt"));
    const ZipArchive archive = ZipArchive::open(bytes_of(file), name);
    const std::string id = archive.read(*archive.find(std::string(name) + "/.data/serialization_id"), 40);
    const PickleValue value = read_torch_object(kFixtures / (std::string(name) + ".pt"));
    const std::string written = write_torch_file(value, name, id);
    // Protocol 4 is read, protocol 2 written.
    if (std::string_view(name) == "dtypes") {
      EXPECT_EQ(written, file);
    }
    EXPECT_EQ(read_torch_object(bytes_of(written), "written"), value);
  }
}

TEST(TorchFolder, OneFileOrSeveralWithAnIndex) {
  const auto weights = [](std::initializer_list<const char*> names) {
    PickleValue value = PickleValue::dict();
    for (const char* name : names) value.set_member(name, PickleTensor{DType::kI8, {1}, std::string(1, name[0])});
    return write_torch_file(value, "archive");
  };
  const ScratchFolder folder;
  EXPECT_FALSE(is_torch_folder(folder.path()));
  folder.file("pytorch_model.bin", weights({"single"}));
  EXPECT_TRUE(is_torch_folder(folder.path()));
  EXPECT_NE(open_torch_folder(folder.path())->find("single"), nullptr);

  // What the index does not list, or places elsewhere, is not the model's.
  folder.file("a.bin", weights({"x", "y", "unlisted"}));
  folder.file("b.bin", weights({"y", "z"}));
  folder.file("pytorch_model.bin.index.json", R"({"weight_map": {"z": "b.bin", "x": "a.bin", "y": "a.bin"}})");
  const std::unique_ptr<TensorReader> reader = open_torch_folder(folder.path());
  ASSERT_EQ(reader->tensors().size(), 3u);
  EXPECT_EQ(reader->files()[reader->find("y")->chunks[0].file].filename(), "a.bin");
  EXPECT_EQ(read_tensor(*reader, *reader->find("z"))[0], std::byte{'z'});

  folder.file("pytorch_model.bin.index.json", R"({"weight_map": {"z": "b.bin", "w": "a.bin"}})");
  EXPECT_THAT(error_of([&] { open_torch_folder(folder.path()); }), HasSubstr("tensor w is in a.bin"));
  folder.file("pytorch_model.bin.index.json", R"({"weight_map": {"z": "../b.bin"}})");
  EXPECT_THAT(error_of([&] { open_torch_folder(folder.path()); }), HasSubstr("no name of a file beside it"));
}

// ---------------------------------------------------------------- hostile files

TEST(TorchFile, TruncatedAnywhereIsAnError) {
  const std::string file = read_text_file(kFixtures / "views.pt");
  const ScratchFolder scratch;
  for (size_t size = 0; size < file.size(); size += 13) {
    const Path path = scratch.file("cut.pt", std::string_view(file).substr(0, size));
    EXPECT_THAT(error_of([&] { open_torch_file(path); }), HasSubstr("cut.pt")) << size;
  }
}

TEST(TorchFile, AnyChangedByteStaysInBounds) {
  const std::string file = read_text_file(kFixtures / "views.pt");
  for (size_t i = 0; i < file.size(); ++i) {
    std::string changed = file;
    changed[i] = static_cast<char>(changed[i] ^ 0x41);
    error_of([&] { read_torch_object(bytes_of(changed), "changed"); });
  }
}

TEST(TorchFile, ViewsMustLieInTheirStorage) {
  const auto pickle = [](std::initializer_list<int64_t> size, std::initializer_list<int64_t> strides,
                         int64_t offset, int64_t elements) {
    PickleWriter to(2);
    to.empty_dict();
    to.string("w");
    to.global("torch._utils", "_rebuild_tensor_v2");
    to.mark();
    to.mark();
    to.string("storage");
    to.global("torch", "FloatStorage");
    to.string("0");
    to.string("cpu");
    to.integer(elements);
    to.tuple(5);
    to.persistent();
    to.integer(offset);
    for (const auto& list : {size, strides}) {
      to.mark();
      for (const int64_t value : list) to.integer(value);
      to.tuple(9);
    }
    to.boolean(false);
    to.global("collections", "OrderedDict");
    to.empty_tuple();
    to.call();
    to.tuple(6);
    to.call();
    to.set_item();
    return to.finish();
  };
  const ScratchFolder scratch;
  const auto error = [&](const std::string& data) {
    const Path path = scratch.file("w.pt", archive_of(data, std::string(24, '\1')));
    return error_of([&] { open_torch_file(path); });
  };
  EXPECT_EQ(error(pickle({2, 3}, {3, 1}, 0, 6)), "");
  EXPECT_EQ(error(pickle({3, 2}, {1, 3}, 0, 6)), "");
  EXPECT_THAT(error(pickle({2, 3}, {3, 1}, 1, 6)), HasSubstr("reaches beyond its storage of 6 elements"));
  EXPECT_THAT(error(pickle({2, 3}, {4, 1}, 0, 6)), HasSubstr("reaches beyond"));
  EXPECT_THAT(error(pickle({7}, {0}, 0, 6)), HasSubstr("[7] at element 0 of a storage of 6"));
  EXPECT_THAT(error(pickle({int64_t{1} << 40}, {0}, 0, 6)), HasSubstr("of a storage of 6"));
  EXPECT_THAT(error(pickle({2}, {int64_t{1} << 62}, 0, 6)), HasSubstr("reaches beyond"));
  EXPECT_THAT(error(pickle({2, 2}, {int64_t{1} << 62, int64_t{1} << 62}, 0, 6)), HasSubstr("reaches beyond"));
  EXPECT_THAT(error(pickle({2}, {1}, int64_t{1} << 62, 6)), HasSubstr("of a storage of 6"));
  EXPECT_THAT(error(pickle({2}, {1}, -1, 6)), HasSubstr("tensor w"));
  EXPECT_THAT(error(pickle({-2}, {1}, 0, 6)), HasSubstr("0 or more"));
  EXPECT_THAT(error(pickle({2}, {-1}, 2, 6)), HasSubstr("0 or more"));
  EXPECT_THAT(error(pickle({1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 6)), HasSubstr("9 axes"));
  EXPECT_THAT(error(pickle({7}, {1}, 0, 7)), HasSubstr("has a storage of 28 bytes, its entry data/0 has 24"));
  EXPECT_THAT(error(pickle({1}, {1}, 0, int64_t{1} << 62)), HasSubstr("storage of"));
}

TEST(TorchFile, CyclesAndTowersEnd) {
  const ScratchFolder scratch;
  const auto error = [&](const std::string& pickle) {
    const std::string archive = archive_of(pickle);
    const Path path = scratch.file("x.pt", archive);
    const std::string first = error_of([&] { open_torch_file(path); });
    const std::string second = error_of([&] { read_torch_object(bytes_of(archive), "x"); });
    EXPECT_NE(first, "");
    EXPECT_NE(second, "");
    return first;
  };
  const std::string cycle(
      "\x80\x02]q\x00h\x00"
      "a.",
      9);
  EXPECT_THAT(error(cycle), HasSubstr("refers to itself"));
  EXPECT_THAT(error("\x80\x02" + std::string(5000, ']') + std::string(4999, 'a') + "."),
              HasSubstr("nested deeper"));
  // Each list holds the one before ten times: 10^30 values in 900 bytes.
  std::string laughs("\x80\x02]q\x00", 5);
  for (int level = 1; level <= 30; ++level) {
    laughs += "](";
    for (int i = 0; i < 10; ++i) laughs += std::string("h") + static_cast<char>(level - 1);
    laughs += std::string("eq") + static_cast<char>(level);
  }
  EXPECT_THAT(error(laughs + "."), HasSubstr("values"));
}

}  // namespace
}  // namespace viaduct::formats
