// Against upstream's classes and every run_config.yaml that it wrote.
#include "viaduct/config/config_container.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/unit/config/config_fixture.h"
#include "viaduct/config/overrides.h"
#include "viaduct/config/peft.h"

namespace viaduct::config {
namespace {

using ::testing::HasSubstr;

std::vector<Path> run_configs() {
  std::vector<Path> out;
  for (const auto& entry : std::filesystem::directory_iterator(Path(VIADUCT_GOLDEN_DIR) / "run_configs"))
    out.push_back(entry.path());
  return out;
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

ConfigContainer read(std::string_view text) {
  YamlLines lines;
  const Yaml document = parse_yaml(text, "run.yaml", {}, &lines);
  return ConfigContainer::from_dict(document, "run.yaml", UnknownKeys::kRefuse, &lines);
}

TEST(ConfigContainer, WritesEveryRunConfigOfUpstreamByteForByte) {
  const std::vector<Path> files = run_configs();
  EXPECT_EQ(files.size(), 68u);
  for (const Path& path : files)
    EXPECT_EQ(ConfigContainer::from_yaml(path).print_yaml(), read_text_file(path)) << path;
}

/// A section's class by its last word, with all defaults, as it is written.
template <class... Sections>
const Yaml* find_defaults(std::string_view target, std::map<std::string, Yaml>& out) {
  (
      [&] {
        Sections section;
        if (!names_class(target, Sections::kClasses)) return;
        section.target = target;
        if constexpr (std::is_same_v<Sections, CanonicalLoRA>)
          section.canonical_mapping = canonical_lora_mapping(section.target_modules);
        out.emplace(std::string(target), section_to_yaml(section));
      }(),
      ...);
  const auto at = out.find(std::string(target));
  return at == out.end() ? nullptr : &at->second;
}

TEST(ConfigContainer, ClassesHaveUpstreamsFieldsAndDefaults) {
  const Json classes = testing::fixture("defaults.json");
  EXPECT_EQ(classes.items().size(), 31u);
  for (const Json& text : classes.items()) {
    const Yaml expected = parse_yaml(text.as_string(), "defaults.json");
    const std::string& target = expected.at("_target_").as_string();
    std::map<std::string, Yaml> found_by_target;
    const Yaml* found = find_defaults<
        TrainingConfig, ValidationConfig, SchedulerConfig, OptimizerConfig, OptimizerConfigOverrideProvider,
        DistributedDataParallelConfig, DistributedInitConfig, RNGConfig, CheckpointConfig, TokenizerConfig,
        LoggerConfig, ProfilingConfig, TensorInspectConfig, FaultToleranceConfig, StragglerDetectionConfig,
        NVRxStragglerDetectionConfig, RerunStateMachineConfig, InProcessRestartConfig, MixedPrecisionConfig,
        CommOverlapConfig, LoRA, CanonicalLoRA, DoRA, GPTDatasetConfig, GPTSFTDatasetConfig,
        DirectHFSFTDatasetConfig, MockVLMSFTDatasetConfig, PackedSequenceSpecs, HFDatasetSourceConfig>(
        target, found_by_target);
    ASSERT_TRUE(found) << target;
    EXPECT_EQ(found->members().size(), expected.members().size()) << target;
    for (const auto& [key, value] : expected.members()) {
      const Yaml* ours = found->find(key.as_string());
      ASSERT_TRUE(ours) << target << ": " << key.as_string();
      EXPECT_EQ(*ours, value) << target << ": " << key.as_string();
    }
  }
}

TEST(ConfigContainer, MissingSectionsHaveTheirDefaults) {
  const ConfigContainer config = read("train:\n  train_iters: 7\n");
  EXPECT_EQ(config.train.train_iters, 7);
  EXPECT_EQ(config.logger.log_interval, 100);
  EXPECT_FALSE(config.dataset);
  EXPECT_EQ(config.optimizer.target, OptimizerConfig::kTarget);
}

TEST(ConfigContainer, ClassesByTheirNameAlone) {
  const ConfigContainer config = read("dataset:\n  _target_: MockGPTDatasetConfig\n  seq_length: 64\n");
  const auto& dataset = std::get<GPTDatasetConfig>(*config.dataset);
  EXPECT_EQ(dataset.target, "megatron.bridge.training.config.MockGPTDatasetConfig");
  EXPECT_EQ(dataset.seq_length, 64);
}

TEST(ConfigContainer, PartsOfASection) {
  const ConfigContainer config = read(R"(
dataset:
  _target_: GPTSFTDatasetConfig
  hf_dataset: {dataset_name: squad}
  offline_packing_specs: {packed_sequence_size: 4096}
  preprocessing: {_target_: ChatSFTPreprocessingConfig, loss_mode: last_turn}
)");
  const auto& dataset = std::get<GPTSFTDatasetConfig>(*config.dataset);
  EXPECT_EQ(dataset.hf_dataset->dataset_name, "squad");
  EXPECT_EQ(dataset.offline_packing_specs->packed_sequence_size, 4096);
  EXPECT_EQ(std::get<ChatSFTPreprocessingConfig>(*dataset.preprocessing).loss_mode, "last_turn");
}

TEST(ConfigContainer, OtherClassesOfDataSetsAreKept) {
  const std::string text = "dataset:\n  _target_: my.module.Provider\n  anything: [1, 2]\n";
  const ConfigContainer config = read(text);
  EXPECT_EQ(config.to_dict().at("dataset"), parse_yaml(text, "").at("dataset"));
}

TEST(ConfigContainer, AllUnknownKeysAtOnceWithLineAndNearestName) {
  EXPECT_EQ(error_of([] {
              read(
                  "train:\n  train_itres: 5\noptimzer:\n  lr: 1.0\ndataset:\n  _target_: GPTSFTDatasetConfig\n"
                  "  hf_dataset:\n    splitt: train\n");
            }),
            "run.yaml:3: optimzer: there is no such section; did you mean 'optimizer'?\n"
            "run.yaml:8: dataset.hf_dataset.splitt: there is no such key; did you mean 'split'?\n"
            "run.yaml:2: train.train_itres: there is no such key; did you mean 'train_iters'?");
}

TEST(ConfigContainer, WrongTypesAndChoicesNameTheLine) {
  EXPECT_EQ(error_of([] { read("train:\n  micro_batch_size: two\n"); }),
            "run.yaml:2: train.micro_batch_size: expected an integer or null, found the string 'two'");
  EXPECT_EQ(error_of([] { read("scheduler:\n\n  lr_decay_style: cosin\n"); }),
            "run.yaml:3: scheduler.lr_decay_style: the string 'cosin' is none of constant, linear, cosine, "
            "inverse-square-root, WSD; did you mean 'cosine'?");
  EXPECT_THAT(error_of([] { read("optimizer:\n  lr: 1e-5\n"); }),
              HasSubstr("only with a point and a sign: 1.0e-05"));
  EXPECT_THAT(error_of([] { read("train:\n  train_iters: 100.0\n"); }), HasSubstr("Write 100"));
  EXPECT_THAT(error_of([] { read("mixed_precision: bf17_mixed\n"); }), HasSubstr("did you mean 'bf16_mixed'?"));
  EXPECT_THAT(error_of([] { read("train: 5\n"); }), HasSubstr("run.yaml:1: train: expected a mapping"));
}

TEST(ConfigContainer, KeysOfOtherReleasesCanBeKept) {
  const std::string text = "dist:\n  added_later: true\nnew_section: {a: 1}\n";
  const ConfigContainer config = ConfigContainer::from_dict(parse_yaml(text, ""), "old.yaml", UnknownKeys::kKeep);
  EXPECT_EQ(unknown_keys(config).size(), 2u);
  EXPECT_EQ(config.to_dict().at("dist").at("added_later"), Yaml(true));
  EXPECT_EQ(config.to_dict().at("new_section").at("a"), Yaml(1));
}

TEST(ConfigContainer, NamesOfEarlierReleases) {
  const ConfigContainer config = read(
      "dist:\n  lazy_init: true\ndataset:\n  _target_: megatron.bridge.training.config.FinetuningDatasetConfig\n"
      "  packed_sequence_specs:\n    packed_sequence_size: 64\n");
  EXPECT_TRUE(config.dist.lazy_mpu_init);
  const auto& dataset = std::get<GPTSFTDatasetConfig>(*config.dataset);
  EXPECT_EQ(dataset.offline_packing_specs->packed_sequence_size, 64);
  EXPECT_TRUE(dataset.enable_offline_packing);
  EXPECT_EQ(std::get<GPTDatasetConfig>(*read("dataset: {_target_: GPTDatasetConfig, sequence_length: 32}").dataset)
                .seq_length,
            32);
}

TEST(ConfigContainer, ValuesByTheirPath) {
  const ConfigContainer config = read("dataset:\n  _target_: GPTSFTDatasetConfig\n");
  EXPECT_EQ(value_at(config, "train.manual_gc"), Yaml(false));
  EXPECT_EQ(value_at(config, "dataset.offline_packing_specs.packed_sequence_size"), Yaml());
  EXPECT_EQ(value_at(config, "model.attention_backend._name_"), Yaml("auto"));
  EXPECT_THAT(error_of([&] { value_at(config, "trai.manual_gc"); }), HasSubstr("did you mean 'train'?"));
  EXPECT_THAT(error_of([&] { value_at(config, "train.manual_cg"); }), HasSubstr("did you mean 'manual_gc'?"));
}

/// What is written, read and written again.
std::string written_again(const ConfigContainer& config) {
  return ConfigContainer::from_dict(parse_yaml(config.print_yaml(), ""), "written", UnknownKeys::kKeep)
      .print_yaml();
}

TEST(ConfigContainer, WhatChangesMadeIsReadAsItIsWritten) {
  const std::string sizes = "  hidden_size: 64\n  num_attention_heads: 8\n  num_layers: 4\n";
  const struct {
    std::string text;
    std::vector<std::string> overrides;
  } cases[] = {
      {"model:\n  _target_: megatron.bridge.models.gpt_provider.GPTModelProvider\n" + sizes,
       {"model.num_query_groups=null", "model.kv_channels=null", "model.num_moe_experts=4"}},
      {"model:\n  _target_: megatron.bridge.models.mamba.MambaModelProvider\n  hybrid_override_pattern: M-M*\n"
       "  extra_checkpoint_metadata: {hf_model_id: some/model}\n" +
           sizes,
       {"model.hf_model_id=null"}},
      {"mixed_precision: bf16_mixed\n", {"mixed_precision.fp8_param=null", "mixed_precision.fp4_param=null"}},
      {"dataset:\n  _target_: my.Provider\n  part: {1: a}\n", {"+dataset.part={1: {2.5: b}, true: c, null: d}"}},
  };
  for (const auto& [text, overrides] : cases) {
    ConfigContainer config = ConfigContainer::from_dict(parse_yaml(text, ""), "run.yaml", UnknownKeys::kKeep);
    apply_overrides(config, overrides);
    EXPECT_EQ(written_again(config), config.print_yaml()) << text;
  }
}

TEST(ConfigContainer, NothingIsDerivedBeforeItIsFinalized) {
  ConfigContainer config = read(
      "model:\n  _target_: megatron.bridge.models.gpt_provider.GPTModelProvider\n  hidden_size: 64\n"
      "  num_attention_heads: 8\n  num_layers: 4\n");
  EXPECT_FALSE(config.model.kv_channels);
  apply_overrides(config, std::vector<std::string>{"model.hidden_size=128"});
  config.model.finalize();
  EXPECT_EQ(config.model.kv_channels, 16);
}

TEST(ConfigContainer, KeysAreStringsAndClassesArePaths) {
  EXPECT_THAT(error_of([] { read("train:\n  1: 5\n"); }),
              HasSubstr("train.1: a key is the integer 1, not a string"));
  EXPECT_THAT(error_of([] { read("train:\n  _target_: 5\n"); }),
              HasSubstr("run.yaml:2: train._target_: expected the path of a class, found the integer 5"));
  EXPECT_THAT(error_of([] { read("2: {}\n"); }), HasSubstr("a key is the integer 2, not a string"));
}

TEST(ConfigContainer, FileAndBack) {
  const Path path = Path(::testing::TempDir()) / "container.yaml";
  ConfigContainer config = read("train:\n  train_iters: 7\n");
  config.to_yaml(path);
  EXPECT_EQ(ConfigContainer::from_yaml(path).print_yaml(), config.print_yaml());
}

}  // namespace
}  // namespace viaduct::config
