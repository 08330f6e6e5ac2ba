#include "viaduct/data/preprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/formats/scratch_folder.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/indexed_dataset.h"

namespace viaduct::data {
namespace {

using formats::error_of;
using formats::ScratchFolder;
using ::testing::HasSubstr;

class PreprocessTest : public testing::Test {
 protected:
  void SetUp() override { write_lines(5000); }
  void write_lines(int count) {
    std::string lines;
    for (int i = 0; i < count; ++i) {
      std::string text = std::to_string(i % 250);
      for (int word = 0; word < i * 13 % 40; ++word) text += " " + std::to_string((i + word) % 250);
      lines += fmt::format("{{\"text\": \"{}\", \"both\": [\"{}\", \"7\"]}}\n", text, i % 100);
    }
    write_file(folder_ / "in.jsonl", lines);
  }
  PreprocessOptions options(const std::string& output) const {
    PreprocessOptions options;
    options.input = {folder_ / "in.jsonl"};
    options.json_keys = {"text", "both"};
    options.output_prefix = folder_ / output;
    options.append_eod = true;
    options.sync_bytes = 1;
    return options;
  }
  std::string bytes(const std::string& output) const {
    std::string all;
    for (const char* key : {"_text", "_both"})
      for (const char* suffix : {"_document.bin", "_document.idx"})
        all += read_text_file(folder_ / (output + key + suffix));
    return all;
  }
  std::string problem(const std::string& line, const TextEncoder& encoder = null_encoder(250)) {
    write_file(folder_ / "in.jsonl", "{\"text\": \"1\", \"both\": \"2\"}\n" + line);
    return error_of([&] { preprocess(options("bad"), encoder); });
  }

  ScratchFolder folder_;
};

// Stops the work after some bytes.
class StopAfter : public Progress {
 public:
  explicit StopAfter(uint64_t bytes) : left_(bytes) {}
  void begin(std::string_view, uint64_t) override {}
  void advance(uint64_t bytes) override { left_ -= std::min(left_, bytes); }
  void end() override {}
  bool cancelled() override { return left_ == 0; }

 private:
  uint64_t left_;
};

TEST_F(PreprocessTest, WorkersDoNotChangeTheBytes) {
  const auto report = preprocess(options("one"), null_encoder(250));
  EXPECT_EQ(report.documents, 5000);
  EXPECT_EQ(report.bytes, std::filesystem::file_size(folder_ / "in.jsonl"));
  EXPECT_EQ(report.prefixes.at(1), (folder_ / "one_both_document").string());
  PreprocessOptions many = options("many");
  many.workers = 7;
  EXPECT_EQ(preprocess(many, null_encoder(250)).tokens, report.tokens);
  EXPECT_EQ(bytes("many"), bytes("one"));
  const formats::IndexedDataset both(folder_ / "one_both_document");
  EXPECT_EQ(both.index().dtype(), DType::kU16);
  EXPECT_EQ(both.index().num_sequences(), 10000);
  std::vector<int64_t> tokens(2);
  both.read(3, 0, tokens);
  EXPECT_THAT(tokens, testing::ElementsAre(7, 249)) << "the end of document belongs to its last sequence";
}

TEST_F(PreprocessTest, InterruptedRunsGoOn) {
  preprocess(options("whole"), null_encoder(250));
  for (const int partitions : {1, 3}) {
    PreprocessOptions part = options("part");
    part.partitions = partitions;
    part.keep_sequential_samples = false;
    preprocess(part, null_encoder(250));
    const std::string expected = bytes("part");
    for (const uint64_t stop : {uint64_t{1}, uint64_t{300'000}}) {
      for (const char* file : {"cut_text_document.idx", "cut_both_document.idx"})
        std::filesystem::remove(folder_ / file);
      StopAfter progress(stop);
      PreprocessOptions cut = part;
      cut.output_prefix = folder_ / "cut";
      cut.progress = &progress;
      EXPECT_THROW(preprocess(cut, null_encoder(250)), Interrupted);
      EXPECT_FALSE(std::filesystem::exists(folder_ / "cut_text_document.idx"));
      cut.progress = nullptr;
      cut.resume = true;
      EXPECT_THAT(error_of([&] { preprocess(cut, null_encoder(251)); }), HasSubstr("other options"));
      EXPECT_EQ(preprocess(cut, null_encoder(250)).documents, 5000);
      EXPECT_EQ(bytes("cut"), expected);
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
}

TEST_F(PreprocessTest, BadLinesAreNamed) {
  EXPECT_THAT(problem("{\"text\": 1}"), HasSubstr("in.jsonl:2: a string wanted"));
  EXPECT_THAT(problem("{\"both\": \"1\"}"), HasSubstr("in.jsonl:2: the key \"text\" is missing"));
  EXPECT_THAT(problem("{\"text\": \"1\", \"both\": [1]}"), HasSubstr("in.jsonl:2: a string wanted"));
  EXPECT_THAT(problem("[]"), HasSubstr("in.jsonl:2: an object wanted"));
  EXPECT_THAT(problem("{\"text\": \"1\""), HasSubstr("in.jsonl:2: not JSON"));
  EXPECT_THAT(problem("\n"), HasSubstr("in.jsonl:2: not JSON"));
  EXPECT_THAT(problem("{\"text\": \"x\", \"both\": \"1\"}"), HasSubstr("found \"x\""));
  EXPECT_THAT(problem("{\"text\": \"70000\", \"both\": \"1\"}"), HasSubstr("70000"));
  EXPECT_EQ(problem("{\"text\": \"70000\", \"both\": \"1\"}", null_encoder(70001)), "");
  TextEncoder without_eod = null_encoder(250);
  without_eod.eod = std::nullopt;
  EXPECT_THAT(problem("", without_eod), HasSubstr("--append-eod"));
}

TEST_F(PreprocessTest, LinesLongerThanABlock) {
  std::string text = "1";
  for (int i = 0; i < 400'000; ++i) text += " 12";
  write_file(folder_ / "in.jsonl", "{\"text\": \"" + text + "\", \"both\": \"\"}");
  TextEncoder encoder = null_encoder(250);
  encoder.encode = [inner = encoder.encode](std::string_view text) {
    return text.empty() ? std::vector<int32_t>() : inner(text);
  };
  EXPECT_EQ(preprocess(options("long"), encoder).tokens, 400'002);
  const formats::IndexedDataset both(folder_ / "long_both_document");
  EXPECT_EQ(both.index().num_sequences(), 0) << "a text without tokens is no sequence";
  EXPECT_EQ(both.index().num_documents(), 1);
}

TEST_F(PreprocessTest, InputPatterns) {
  write_file(folder_ / "x2.jsonl", "");
  write_file(folder_ / "x1.jsonl", "");
  EXPECT_THAT(input_files(folder_ / "x*.jsonl"), testing::ElementsAre(folder_ / "x1.jsonl", folder_ / "x2.jsonl"));
  EXPECT_THAT(error_of([&] { input_files(folder_ / "none*"); }), HasSubstr("none*"));
}

}  // namespace
}  // namespace viaduct::data
