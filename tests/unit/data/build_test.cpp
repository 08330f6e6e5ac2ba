#include "viaduct/data/build.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "tests/unit/formats/scratch_folder.h"
#include "viaduct/data/blended_dataset.h"
#include "viaduct/data/gpt_dataset.h"
#include "viaduct/formats/indexed_dataset_writer.h"

namespace viaduct::data {
namespace {

using formats::error_of;
using formats::ScratchFolder;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class BuildTest : public testing::Test {
 protected:
  // `documents` documents of 1 to 20 tokens, which count up through all of them from `first`; eod is 0.
  std::string corpus(const std::string& name, int documents, int64_t first = 1) {
    formats::IndexedDatasetWriter writer(folder_ / name, DType::kI32);
    for (int i = 0; i < documents; ++i) {
      std::vector<int64_t> tokens(1 + static_cast<size_t>(i * 7 % 20));
      std::iota(tokens.begin(), tokens.end(), first);
      first += static_cast<int64_t>(tokens.size());
      tokens.back() = 0;
      writer.add_document(tokens, std::vector<int32_t>{static_cast<int32_t>(tokens.size())});
    }
    writer.finalize();
    return folder_ / name;
  }
  GPTDatasetConfig config() const {
    GPTDatasetConfig config;
    config.sequence_length = 8;
    config.split = "1";
    config.tokenizer.vocab_size = 1000;
    return config;
  }

  ScratchFolder folder_;
};

TEST_F(BuildTest, OneEpochHasEveryTokenOnce) {
  GPTDatasetConfig config = this->config();
  config.blend = Blend{{corpus("a", 50)}, {}};
  const auto datasets = build_gpt_datasets(config, {});
  ASSERT_EQ(datasets[0].size(), 1u);
  EXPECT_TRUE(datasets[1].empty());
  std::multiset<int64_t> tokens;
  for (int64_t i = 0; i < datasets[0][0]->size(); ++i) {
    const Sample sample = datasets[0][0]->get_item(i);
    for (const int64_t token : sample.tokens)
      if (token != 0) tokens.insert(token);
    EXPECT_TRUE(std::equal(sample.tokens.begin() + 1, sample.tokens.end(), sample.labels.begin()));
  }
  EXPECT_GT(tokens.size(), 400u);
  EXPECT_EQ(tokens.size(), std::set<int64_t>(tokens.begin(), tokens.end()).size());
  EXPECT_TRUE(std::filesystem::exists(folder_ / "a/cache/GPTDataset_indices"))
      << "below the corpus without a cache";
}

TEST_F(BuildTest, SplitsDoNotShareDocuments) {
  GPTDatasetConfig config = this->config();
  config.blend = Blend{{corpus("a", 100)}, {}};
  config.split = "6,2,2";
  const auto datasets = build_gpt_datasets(config, {500, 20, 20});
  std::set<int64_t> seen[3];
  for (size_t split = 0; split < 3; ++split)
    for (int64_t i = 0; i < datasets[split].at(0)->size(); ++i)
      for (const int64_t token : datasets[split][0]->get_item(i).tokens)
        if (token != 0) seen[split].insert(token);
  EXPECT_LT(*seen[0].rbegin(), *seen[1].begin());
  EXPECT_LT(*seen[1].rbegin(), *seen[2].begin());
  EXPECT_GE(datasets[0][0]->size(), 500);
}

TEST_F(BuildTest, BlendsKeepTheirShares) {
  GPTDatasetConfig config = this->config();
  config.blend = Blend{{corpus("a", 30), corpus("b", 30, 10'000)}, {{3.0, 1.0}}};
  config.num_dataset_builder_threads = 4;
  const auto datasets = build_gpt_datasets(config, {400, 0, 0});
  ASSERT_EQ(datasets[0][0]->size(), 400);
  int64_t of_b = 0;
  for (int64_t i = 0; i < 400; ++i) {
    const Sample sample = datasets[0][0]->get_item(i);
    of_b += *sample.dataset_id;
    EXPECT_EQ(*std::max_element(sample.tokens.begin(), sample.tokens.end()) >= 10'000, *sample.dataset_id == 1);
    EXPECT_LE(std::abs(4 * of_b - (i + 1)), 4);
  }
  EXPECT_EQ(of_b, 100);
}

TEST_F(BuildTest, BlendPerSplitAndSeveralValidationSets) {
  GPTDatasetConfig config = this->config();
  config.split = std::nullopt;
  config.multiple_validation_sets = true;
  const std::string a = corpus("a", 30), b = corpus("b", 30), c = corpus("c", 40);
  config.blend_per_split = {{Blend{{a}, {}}, Blend{{b, c}, {}}, std::nullopt}};
  const auto datasets = build_gpt_datasets(config, {10, std::nullopt, 5});
  EXPECT_EQ(datasets[0].size(), 1u);
  EXPECT_EQ(datasets[1].size(), 2u);
  EXPECT_TRUE(datasets[2].empty());
  EXPECT_EQ(datasets[1][1]->split(), Split::kValid);
  EXPECT_TRUE(datasets[0][0]->unique_identifiers().at("split_matrix").is_null());
}

TEST_F(BuildTest, PaddingAndTheLastPartialSample) {
  GPTDatasetConfig config = this->config();
  config.split = "0,1,0";
  config.drop_last_partial_validation_sequence = false;
  config.blend = Blend{{corpus("a", 3)}, {}};  // 1 + 8 + 15 tokens
  const auto datasets = build_gpt_datasets(config, {});
  const Dataset& valid = *datasets[1].at(0);
  ASSERT_EQ(valid.size(), 3);
  int64_t padded = 0;
  for (int64_t i = 0; i < 3; ++i)
    for (const float weight : valid.get_item(i).loss_mask) padded += weight == 0;
  EXPECT_EQ(padded, 1);  // 23 labels of 24
  EXPECT_THAT(valid.padding_item().loss_mask, Each(0.0f));
}

TEST_F(BuildTest, DocumentsWithinASample) {
  GPTDatasetConfig config = this->config();
  config.blend = Blend{{corpus("a", 40)}, {}};
  config.eod_mask_loss = config.reset_position_ids = config.reset_attention_mask = true;
  const auto plain = build_gpt_datasets(config, {});
  config.inter_document_masking = true;
  const auto documents = build_gpt_datasets(config, {});
  for (int64_t i = 0; i < plain[0][0]->size(); ++i) {
    const Sample sample = plain[0][0]->get_item(i), masked = documents[0][0]->get_item(i);
    EXPECT_TRUE(masked.attention_mask.empty());
    EXPECT_EQ(masked.cu_seqlens.size(), 9u);
    EXPECT_EQ(masked.cu_seqlens.back(), 8);
    EXPECT_EQ(masked.position_ids, sample.position_ids) << "documents end where eod stands";
    EXPECT_EQ(masked.sequences, sample.sequences);
    for (size_t row = 0; row < 8; ++row)
      EXPECT_EQ(std::ranges::count(sample.sequences, static_cast<int64_t>(row)), sample.position_ids[row] == 0);
    EXPECT_EQ(sample.sequences.back(), 8);
    for (size_t row = 0; row < 8; ++row) {
      EXPECT_EQ(sample.loss_mask[row], sample.tokens[row] == 0 ? 0.0f : 1.0f);
      for (size_t column = 0; column < 8; ++column) {
        const bool sees = column <= row && static_cast<int64_t>(row - column) <= sample.position_ids[row];
        EXPECT_EQ(sample.attention_mask[row * 8 + column], sees ? 0 : 1);
      }
    }
  }
}

TEST_F(BuildTest, AmbiguousPaddingIsNotHidden) {
  GPTDatasetConfig config = this->config();
  config.blend = Blend{{corpus("a", 40)}, {}};
  config.tokenizer.pad = 0;  // which is eod too
  const auto zeros = [&] {
    int64_t count = 0;
    const auto datasets = build_gpt_datasets(config, {});
    for (int64_t i = 0; i < datasets[0][0]->size(); ++i)
      for (const float weight : datasets[0][0]->get_item(i).loss_mask) count += weight == 0;
    return count;
  };
  EXPECT_EQ(zeros(), 0);
  config.allow_ambiguous_pad_tokens = true;
  EXPECT_GT(zeros(), 30);
}

TEST_F(BuildTest, MistakesAreNamed) {
  GPTDatasetConfig config = this->config();
  config.blend = Blend{{folder_ / "none"}, {}};
  EXPECT_THAT(error_of([&] { build_gpt_datasets(config, {}); }), HasSubstr("none.idx is missing"));
  config.blend = Blend{{corpus("a", 10), corpus("b", 10)}, {{1.0, 1.0}}};
  EXPECT_THAT(error_of([&] { build_gpt_datasets(config, {}); }), HasSubstr("no number of samples"));
  config.split = "9999,1,0";
  EXPECT_THAT(error_of([&] { build_gpt_datasets(config, {10, 10, 0}); }), HasSubstr("have no tokens"));
  config.random_seed = -3;
  EXPECT_THAT(error_of([&] { build_gpt_datasets(config, {10, 0, 0}); }), HasSubstr("random_seed"));
}

TEST_F(BuildTest, BrokenCaches) {
  GPTDatasetConfig config = this->config();
  config.blend = Blend{{corpus("a", 20)}, {}};
  const auto build = [&] { return build_gpt_datasets(config, {}); };
  (void)build();
  const Path cache = folder_ / "a/cache/GPTDataset_indices";
  std::map<std::string, Path> files;
  for (const auto& entry : std::filesystem::directory_iterator(cache)) {
    const std::string name = entry.path().filename();
    files[name.substr(name.rfind('-') + 1)] = entry.path();
  }
  ASSERT_EQ(files.size(), 4u);
  const std::string sample = read_text_file(files["sample_index.npy"]);
  const auto size = build()[0][0]->size();
  const auto with = [&](size_t offset, int32_t value) {
    std::string bytes = sample;
    std::memcpy(bytes.data() + 128 + offset, &value, 4);
    std::filesystem::remove(files["sample_index.npy"]);
    write_file(files["sample_index.npy"], bytes);
    return error_of([&] {
      const auto datasets = build();
      for (int64_t i = 0; i < size; ++i) (void)datasets[0][0]->get_item(i);
    });
  };
  EXPECT_EQ(with(0, 0), "");
  EXPECT_THAT(with(8, -1), HasSubstr("remove the indexes"));
  EXPECT_THAT(with(8, 1 << 30), HasSubstr("remove the indexes"));
  EXPECT_NE(with(12, -1), "");
  EXPECT_NE(with(12, 1 << 30), "");
  std::filesystem::remove(files["sample_index.npy"]);
  formats::NpyArray(std::vector<int32_t>(6), DType::kI32, {3, 2}).save(files["sample_index.npy"]);
  EXPECT_THAT(error_of([&] { (void)build(); }), HasSubstr("[3, 2] found"));
  std::filesystem::remove(files["sample_index.npy"]);
  EXPECT_EQ(build()[0][0]->size(), size) << "what is missing is built";
  config.path_to_cache = (folder_ / "a.bin" / "cache").string();
  EXPECT_THAT(error_of([&] { (void)build(); }), HasSubstr("path_to_cache"));
  config.path_to_cache = folder_ / "empty";
  config.fast_cache_load = true;
  EXPECT_THAT(error_of([&] { (void)build(); }), HasSubstr("run once without it"));
}

// numpy.random.default_rng(0) draws 3484 first.
TEST_F(BuildTest, MockData) {
  GPTDatasetConfig config = this->config();
  config.split = std::nullopt;
  config.sequence_length = 2048;
  config.tokenizer.eod = 999;
  const auto datasets = build_gpt_datasets(config, {100, 10, 10});
  for (const auto& split : datasets) ASSERT_EQ(split.size(), 1u);
  const Sample sample = datasets[0][0]->get_item(3);
  EXPECT_EQ(sample.tokens.size(), 2048u);
  const MockSequences sequences(1000, 999);
  EXPECT_EQ(sequences.size(), 100'000);
  EXPECT_EQ(sequences.length(0), 3484);
  std::vector<int64_t> tokens(3);
  sequences.read(0, 3481, tokens);
  EXPECT_THAT(tokens, ElementsAre(482, 483, 999));
}

}  // namespace
}  // namespace viaduct::data
