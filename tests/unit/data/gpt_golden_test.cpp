// What megatron-core 0.19.2 cached and sampled (tests/golden/fixtures), made again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "tests/unit/formats/scratch_folder.h"
#include "viaduct/data/blended_dataset.h"
#include "viaduct/data/build.h"
#include "viaduct/data/gpt_dataset.h"
#include "viaduct/formats/hf_directory.h"

namespace viaduct::data {
namespace {

const Path kGolden = Path(VIADUCT_GOLDEN_DIR) / "datasets" / "gpt_dataset";

using Files = std::map<std::string, std::string>;

Files files_of(const Path& folder) {
  Files files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    files[entry.path().filename().string()] = read_text_file(entry.path());
  return files;
}

Blend blend_of(const Json& json) {
  Blend blend;
  for (const Json& path : json.items().at(0).items()) blend.paths.push_back(path.as_string());
  if (const Json& weights = json.items().at(1); !weights.is_null()) {
    blend.weights.emplace();
    for (const Json& weight : weights.items()) blend.weights->push_back(weight.as_double());
  }
  return blend;
}

GPTDatasetConfig config_of(const Json& setting, const Path& cache) {
  const auto flag = [&](const char* name) { return setting.contains(name) && setting.at(name).as_bool(); };
  GPTDatasetConfig config;
  config.random_seed = setting.at("seed").as_int();
  config.sequence_length = setting.at("seq").as_int();
  config.split = setting.at("split").as_string();
  config.blend = blend_of(setting.at("blend"));
  config.path_to_cache = cache.string();
  config.create_attention_mask = false;
  config.reset_position_ids = flag("reset_position_ids");
  config.reset_attention_mask = flag("reset_attention_mask");
  config.eod_mask_loss = flag("eod_mask_loss");
  config.tokenizer.unique_identifiers.set("class", "Tok");
  config.tokenizer.unique_identifiers.set("vocab_size", 250);
  return config;
}

template <class T>
std::vector<T> numbers(const formats::TensorReader& reader, const std::string& name) {
  const auto bytes = formats::read_tensor(reader, *reader.find(name));
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

template <class T>
void expect_samples(const formats::TensorReader& reader, const std::string& name, const Dataset& dataset,
                    std::vector<T> Sample::*member) {
  if (!reader.find(name)) return;
  std::vector<T> ours;
  for (int64_t i = 0; i < reader.find(name)->shape[0]; ++i) {
    const std::vector<T> values = dataset.get_item(i).*member;
    ours.insert(ours.end(), values.begin(), values.end());
  }
  EXPECT_EQ(ours, numbers<T>(reader, name)) << name;
}

class GptGolden : public testing::TestWithParam<std::string> {
 protected:
  // Paths are a part of the descriptions, and the fixtures were made inside of their folder.
  void SetUp() override {
    std::filesystem::current_path(kGolden);
    setting_ = Json::parse(read_text_file("oracle.json"), "oracle.json").at("settings").at(GetParam());
  }
  DatasetSplits build(const Path& cache) const {
    SplitSizes sizes;
    for (size_t i = 0; i < sizes.size(); ++i)
      if (const Json& wanted = setting_.at("requested").items().at(i); !wanted.is_null())
        sizes[i] = wanted.as_int();
    return build_gpt_datasets(config_of(setting_, cache), sizes);
  }
  void expect_same_datasets(const DatasetSplits& splits) const {
    const auto samples = formats::open_reader(fmt::format("samples_{}.safetensors", GetParam()));
    for (const Split split : kSplits) {
      const std::string key(name(split));
      const auto& datasets = splits[static_cast<size_t>(split)];
      const Json& length = setting_.at("lengths").at(key);
      ASSERT_EQ(datasets.size(), length.is_null() ? 0u : 1u);
      if (datasets.empty()) continue;
      EXPECT_EQ(datasets[0]->size(), length.as_int());
      ASSERT_TRUE(samples->find(key + ".tokens"));
      expect_samples(*samples, key + ".tokens", *datasets[0], &Sample::tokens);
      expect_samples(*samples, key + ".labels", *datasets[0], &Sample::labels);
      expect_samples(*samples, key + ".loss_mask", *datasets[0], &Sample::loss_mask);
      expect_samples(*samples, key + ".position_ids", *datasets[0], &Sample::position_ids);
      if (const auto* blend = dynamic_cast<const BlendedDataset*>(datasets[0].get())) {
        const auto ids = blend->index().dataset.as<int16_t>();
        EXPECT_EQ(std::vector(ids.begin(), ids.end()), numbers<int16_t>(*samples, key + ".blend_dataset_index"));
      }
    }
  }

  Json setting_;
  formats::ScratchFolder scratch_;
};

TEST_P(GptGolden, CacheIsMegatronsByteForByte) {
  expect_same_datasets(build(scratch_.path()));
  const Files ours = files_of(scratch_.path()), theirs = files_of("cache_" + GetParam());
  EXPECT_GE(theirs.size(), 4u);
  for (const auto& [file, bytes] : theirs) {
    ASSERT_TRUE(ours.contains(file)) << file;
    EXPECT_EQ(ours.at(file), bytes) << file;
  }
  EXPECT_EQ(ours.size(), theirs.size());
}

// Reads megatron-core's cache: nothing is built.
TEST_P(GptGolden, ReadsMegatronsCache) {
  const Path cache = scratch_ / "copy";
  std::filesystem::copy("cache_" + GetParam(), cache);
  const auto time = std::filesystem::last_write_time(cache);
  expect_same_datasets(build(cache));
  EXPECT_EQ(std::filesystem::last_write_time(cache), time) << "something was written";
}

INSTANTIATE_TEST_SUITE_P(Settings, GptGolden,
                         testing::Values("s1", "s2", "s3", "flags", "blend", "blend_noweights"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace viaduct::data
