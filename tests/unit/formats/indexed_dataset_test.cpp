#include "viaduct/formats/indexed_dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/formats/scratch_folder.h"
#include "viaduct/formats/indexed_dataset_layout.h"
#include "viaduct/formats/indexed_dataset_writer.h"

namespace viaduct::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Path kGolden = Path(VIADUCT_GOLDEN_DIR) / "datasets" / "gpt_dataset";

std::vector<int64_t> tokens_of(const IndexedDataset& dataset, int64_t sequence) {
  std::vector<int64_t> tokens(static_cast<size_t>(dataset.index().length(sequence)));
  dataset.read(sequence, 0, tokens);
  return tokens;
}

void write_two(const std::string& prefix, DType dtype, bool multimodal) {
  IndexedDatasetWriter writer(prefix, dtype, multimodal);
  writer.add_item(std::vector<int64_t>{1, 2, 3}, multimodal ? 1 : 0);
  writer.add_item(std::vector<int64_t>{4});
  writer.end_document();
  writer.add_document({}, {});
  writer.add_document(std::vector<int64_t>{5, 100}, std::vector<int32_t>{1, 1});
  writer.finalize();
}

// What megatron-core's IndexedDatasetBuilder wrote, written again by ours: the same bytes.
TEST(IndexedDataset, WritesMegatronsBytes) {
  const ScratchFolder folder;
  for (const std::string name : {"a", "b"}) {
    const IndexedDataset source(kGolden / name);
    source.validate();
    const IndexedDatasetIndex& index = source.index();
    IndexedDatasetWriter writer(folder / name, index.dtype());
    int64_t tokens = 0;
    for (int64_t document = 0; document < index.num_documents(); ++document) {
      for (int64_t i = index.document(document); i < index.document(document + 1); ++i) {
        writer.add_item(tokens_of(source, i));
        tokens += index.length(i);
      }
      writer.end_document();
    }
    EXPECT_GT(tokens, 2000);
    writer.finalize();
    for (const std::string suffix : {".bin", ".idx"})
      EXPECT_EQ(read_text_file(folder / (name + suffix)), read_text_file(kGolden / (name + suffix)));
  }
}

TEST(IndexedDataset, EveryTypeRoundTrips) {
  const ScratchFolder folder;
  for (const DType dtype : {DType::kU8, DType::kI8, DType::kI16, DType::kU16, DType::kI32, DType::kI64}) {
    for (const bool multimodal : {false, true}) {
      write_two(folder / "x", dtype, multimodal);
      const IndexedDataset dataset(folder / "x");
      dataset.validate();
      EXPECT_EQ(dataset.index().dtype(), dtype);
      EXPECT_EQ(dataset.index().num_sequences(), 4);
      EXPECT_EQ(dataset.index().num_documents(), 3);
      EXPECT_THAT(tokens_of(dataset, 0), ElementsAre(1, 2, 3));
      EXPECT_THAT(tokens_of(dataset, 3), ElementsAre(100));
      EXPECT_EQ(dataset.index().has_modes(), multimodal);
      if (multimodal) {
        EXPECT_EQ(dataset.index().mode(0), 1);
        EXPECT_EQ(dataset.index().mode(1), 0);
      } else {
        EXPECT_THAT(error_of([&] { dataset.index().mode(0); }), HasSubstr("no modes"));
      }
    }
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2) << "nothing else is left";
}

TEST(IndexedDataset, JoinsAndResumes) {
  const ScratchFolder folder;
  write_two(folder / "x", DType::kU16, false);
  {
    IndexedDatasetWriter writer(folder / "y", DType::kU16, false, true);
    writer.add_index(folder / "x");
    const IndexedDatasetProgress at = writer.sync();
    writer.add_document(std::vector<int64_t>{9, 9}, std::vector<int32_t>{2});  // lost: after the progress
    (void)writer.sync();
    IndexedDatasetWriter again(folder / "y", DType::kU16, false, at);
    again.add_index(folder / "x");
    again.finalize();
  }
  const IndexedDataset dataset(folder / "y");
  dataset.validate();
  EXPECT_EQ(dataset.index().num_sequences(), 8);
  EXPECT_EQ(dataset.index().document(4), 6);
  EXPECT_THAT(tokens_of(dataset, 4), ElementsAre(1, 2, 3));
}

TEST(IndexedDataset, RefusesTokensThatDoNotFit) {
  const ScratchFolder folder;
  IndexedDatasetWriter writer(folder / "x", DType::kU16);
  EXPECT_THAT(error_of([&] { writer.add_item(std::vector<int64_t>{65536}); }), HasSubstr("65536"));
  EXPECT_THAT(error_of([&] { writer.add_item(std::vector<int64_t>{-1}); }), HasSubstr("-1"));
  EXPECT_THAT(error_of([&] { IndexedDatasetWriter(folder / "y", DType::kF32); }), HasSubstr("F32"));
}

class HostileIndex : public testing::Test {
 protected:
  void SetUp() override {
    write_two(folder_ / "x", DType::kU16, false);
    good_ = read_text_file(folder_ / "x.idx");
  }
  // The error of opening, checking and reading all, after `change`.
  std::string problem(const std::function<void(std::string&)>& change) {
    std::string bytes = good_;
    change(bytes);
    write_file(folder_ / "x.idx", bytes);
    return error_of([&] {
      const IndexedDataset dataset(folder_ / "x");
      dataset.validate();
    });
  }
  template <class T>
  std::string with(size_t offset, T value) {
    return problem([&](std::string& bytes) { std::memcpy(bytes.data() + offset, &value, sizeof value); });
  }

  ScratchFolder folder_;
  std::string good_;
};

TEST_F(HostileIndex, EveryFieldIsChecked) {
  constexpr size_t kHead = sizeof(IndexedDatasetHeader), kPointers = kHead + 16, kDocuments = kPointers + 32;
  EXPECT_EQ(problem([](std::string&) {}), "");
  EXPECT_THAT(with(0, uint8_t{'X'}), HasSubstr("MMIDIDX"));
  EXPECT_THAT(with(9, uint64_t{2}), HasSubstr("version 2"));
  for (const int code : {0, 9, 255}) EXPECT_THAT(with(17, static_cast<uint8_t>(code)), HasSubstr("type of tokens"));
  for (const uint64_t count : {uint64_t{3}, uint64_t{5}, uint64_t{1} << 40, ~uint64_t{0}, uint64_t{1} << 62}) {
    EXPECT_THAT(with(18, count), HasSubstr("x.idx")) << count;
    EXPECT_THAT(with(26, count), HasSubstr("x.idx")) << count;
  }
  EXPECT_THAT(with(kHead, int32_t{-3}), HasSubstr("-3 tokens"));
  EXPECT_THAT(with(kHead + 12, int32_t{1 << 30}), HasSubstr("sequence 3"));
  EXPECT_THAT(with(kPointers, int64_t{-2}), HasSubstr("byte -2"));
  EXPECT_THAT(with(kPointers + 24, int64_t{1} << 62), HasSubstr("sequence 3"));
  EXPECT_THAT(with(kDocuments, int64_t{1}), HasSubstr("first document"));
  EXPECT_THAT(with(kDocuments + 8, int64_t{9}), HasSubstr("document 1"));
  EXPECT_THAT(with(kDocuments + 24, int64_t{9}), HasSubstr("last document"));
  for (size_t size = 0; size < good_.size(); ++size)
    EXPECT_NE(problem([&](std::string& bytes) { bytes.resize(size); }), "") << size;
  EXPECT_THAT(problem([](std::string& bytes) { bytes += "x"; }), HasSubstr("copy it again"));
}

TEST_F(HostileIndex, MissingAndCutData) {
  const IndexedDataset dataset(folder_ / "x");
  std::vector<int64_t> tokens(4);
  EXPECT_THAT(error_of([&] { dataset.read(0, 0, tokens); }), HasSubstr("4 tokens from token 0 of sequence 0"));
  EXPECT_THAT(error_of([&] { dataset.read(4, 0, {}); }), HasSubstr("no sequence 4"));
  EXPECT_THAT(error_of([&] { dataset.read(0, -1, {}); }), HasSubstr("token -1"));
  std::filesystem::resize_file(folder_ / "x.bin", 3);
  EXPECT_THAT(error_of([&] { dataset.read(3, 0, std::span(tokens).first(1)); }), HasSubstr("x.bin"));
  EXPECT_THAT(error_of([&] { IndexedDataset(folder_ / "x").validate(); }), HasSubstr("belong together"));
  std::filesystem::remove(folder_ / "x.bin");
  EXPECT_THAT(error_of([&] { IndexedDataset(folder_ / "x"); }), HasSubstr("x.bin is missing"));
}

}  // namespace
}  // namespace viaduct::formats
