// Overrides: values against Hydra's parser, their effect on a configuration, and the messages.
#include "viaduct/config/overrides.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/config/config_fixture.h"
#include "viaduct/config/override_value.h"

namespace viaduct::config {
namespace {

using ::testing::HasSubstr;

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

ConfigContainer start() {
  ConfigContainer config;
  config.dataset = GPTSFTDatasetConfig{};
  return config;
}

ConfigContainer with(std::vector<std::string> overrides) {
  ConfigContainer config = start();
  apply_overrides(config, overrides);
  return config;
}

std::string error_with(std::vector<std::string> overrides) {
  return error_of([&] { with(std::move(overrides)); });
}

TEST(OverrideValue, ReadsWhatHydraReads) {
  int refused = 0;
  const Json golden = testing::fixture("override_values.json");
  for (const Json& row : golden.items()) {
    const std::string& text = row.at("text").as_string();
    if (row.contains("error") || text.find("${") != std::string::npos) {
      EXPECT_THROW(parse_override_value(text), UserError) << text;
      ++refused;
    } else {
      EXPECT_EQ(parse_override_value(text), parse_yaml(row.at("yaml").as_string(), text)) << text;
    }
  }
  EXPECT_GT(refused, 20);
  EXPECT_EQ(parse_override_value(""), Yaml(""));
}

TEST(OverrideValue, DeepNestingIsRefused) {
  EXPECT_THROW(parse_override_value(std::string(100'000, '[')), UserError);
}

TEST(Overrides, LookLikeOverrides) {
  for (const char* text : {"a=b", "a.b=", "+a.b=c", "++a=1", "~a", "~a.b=1", "a[0]=1", "train.train_iters=10"})
    EXPECT_TRUE(is_override(text)) << text;
  for (const char* text : {"a", "--a=b", "-a=b", "a b=c", "/d/a", "./run.yaml", "=b", ""})
    EXPECT_FALSE(is_override(text)) << text;
}

TEST(Overrides, SetFieldsOfEveryType) {
  const ConfigContainer config =
      with({"train.train_iters=10", "optimizer.lr=1e-4", "optimizer.min_lr=0", "model.sequence_parallel=true",
            "scheduler.lr_decay_style=cosine", "train.iterations_to_skip=[3,4]", "checkpoint.save=/c/run 1",
            "model.params_dtype=bf16", "optimizer.exp_avg_dtype=torch.bfloat16", "model.attention_backend=flash",
            "train.exit_signal=SIGINT", "model.activation_func=gelu", "logger.wandb_exp_name=123",
            "checkpoint.load=null", "model.pipeline_model_parallel_layout='Et*3|(tt|)*2L'"});
  EXPECT_EQ(config.train.train_iters, 10);
  EXPECT_EQ(static_cast<double>(*config.optimizer.lr), 1e-4);
  EXPECT_TRUE(config.optimizer.min_lr->is_integer());
  EXPECT_TRUE(config.model.sequence_parallel);
  EXPECT_EQ(config.scheduler.lr_decay_style, "cosine");
  EXPECT_EQ(config.train.iterations_to_skip, (Ints{3, 4}));
  EXPECT_EQ(config.checkpoint.save, "/c/run 1");
  EXPECT_EQ(config.model.params_dtype, DType::kBF16);
  EXPECT_EQ(config.optimizer.exp_avg_dtype, DType::kBF16);
  EXPECT_EQ(config.model.attention_backend, attention_backend_named("flash"));
  EXPECT_EQ(config.train.exit_signal.name, "SIGINT");
  EXPECT_EQ(config.model.activation_name(), "gelu");
  EXPECT_EQ(config.logger.wandb_exp_name, "123");
  EXPECT_EQ(config.model.pipeline_model_parallel_layout, Yaml("Et*3|(tt|)*2L"));
}

TEST(Overrides, ReachIntoPartsListsAndMappings) {
  const ConfigContainer config =
      with({"dataset.offline_packing_specs.packed_sequence_size=4096", "dataset.hf_dataset.dataset_name=squad",
            "+dataset.dataset_kwargs.chat=true", "+dataset.dataset_kwargs.deep.er=[1,2]",
            "dataset.dataset_kwargs.deep.er[1]=5", "+env_vars.NCCL_ALGO=Ring", "model.cp_comm_type=[p2p,a2a]",
            "model.cp_comm_type.1=p2p"});
  const auto& dataset = std::get<GPTSFTDatasetConfig>(*config.dataset);
  EXPECT_EQ(dataset.offline_packing_specs->packed_sequence_size, 4096);
  EXPECT_EQ(dataset.hf_dataset->dataset_name, "squad");
  EXPECT_EQ(dataset.dataset_kwargs, parse_yaml("{chat: true, deep: {er: [1, 5]}}", ""));
  EXPECT_EQ(config.env_vars, parse_yaml("{NCCL_ALGO: Ring}", ""));
  EXPECT_EQ(std::get<Strings>(*config.model.cp_comm_type), (Strings{"p2p", "p2p"}));
}

TEST(Overrides, ChangeClasses) {
  ConfigContainer config = start();
  std::get<GPTSFTDatasetConfig>(*config.dataset).seq_length = 512;
  std::get<GPTSFTDatasetConfig>(*config.dataset).dataset_root = "/d";
  // The class comes first, wherever it stands.
  apply_overrides(config, std::vector<std::string>{"dataset.random_seed=7", "dataset._target_=MockGPTDatasetConfig",
                                                   "+peft={_target_: LoRA, dim: 4}"});
  const auto& mock = std::get<GPTDatasetConfig>(*config.dataset);
  EXPECT_TRUE(mock.is("MockGPTDatasetConfig"));
  EXPECT_EQ(mock.seq_length, 512);
  EXPECT_EQ(mock.random_seed, 7);
  EXPECT_EQ(std::get<LoRA>(*config.peft).dim, 4);
  apply_overrides(config, std::vector<std::string>{"peft._target_=CanonicalLoRA", "peft.alpha=9"});
  EXPECT_EQ(std::get<CanonicalLoRA>(*config.peft).dim, 4);
  EXPECT_EQ(std::get<CanonicalLoRA>(*config.peft).alpha, 9);
  EXPECT_EQ(std::get<CanonicalLoRA>(*config.peft).target_modules.size(), 7u);
}

TEST(Overrides, BeginNullSectionsAndExpandRecipes) {
  const ConfigContainer config =
      with({"ft.calc_ft_timeouts=true", "mixed_precision=bf16-mixed", "mixed_precision.grad_reduce_in_fp32=false",
            "comm_overlap.bucket_size=1000"});
  EXPECT_TRUE(config.ft->calc_ft_timeouts);
  const auto& precision = std::get<MixedPrecisionConfig>(*config.mixed_precision);
  EXPECT_TRUE(precision.bf16);
  EXPECT_FALSE(precision.grad_reduce_in_fp32);
  EXPECT_EQ(config.comm_overlap->bucket_size, 1000);
  EXPECT_THAT(error_with({"peft.dim=8"}), HasSubstr("set its _target_ first"));
}

TEST(Overrides, Delete) {
  ConfigContainer config = with({"train.train_iters=10", "optimizer.lr=1.0", "scheduler.lr_warmup_iters=5",
                                 "+dataset.dataset_kwargs={a: 1, b: [1,2,3]}", "ft.simulate_fault=true"});
  apply_overrides(config, std::vector<std::string>{"~train.train_iters", "~scheduler.lr_warmup_iters=5", "~ft",
                                                   "~dataset.dataset_kwargs.a", "~dataset.dataset_kwargs.b.1"});
  EXPECT_FALSE(config.train.train_iters);
  EXPECT_EQ(config.scheduler.lr_warmup_iters, 0);
  EXPECT_FALSE(config.ft);
  EXPECT_EQ(std::get<GPTSFTDatasetConfig>(*config.dataset).dataset_kwargs, parse_yaml("{b: [1, 3]}", ""));
  EXPECT_THAT(error_of([&] { apply_overrides(config, std::vector<std::string>{"~optimizer.lr=2.0"}); }),
              HasSubstr("optimizer.lr is not the float 2.0 but the float 1.0"));
  EXPECT_THAT(error_with({"~train"}), HasSubstr("cannot be taken away"));
}

TEST(Overrides, NameWhatIsWrong) {
  EXPECT_EQ(error_with({"train.train_itres=5"}),
            "override 'train.train_itres=5': 'train_itres' is no key of train; did you mean 'train_iters'?");
  EXPECT_EQ(error_with({"trin.train_iters=5"}),
            "override 'trin.train_iters=5': 'trin' is no section of the configuration; did you mean 'train'?");
  EXPECT_EQ(error_with({"train.micro_batch_size=two"}),
            "override 'train.micro_batch_size=two': train.micro_batch_size: expected an integer or null, found the "
            "string 'two'");
  EXPECT_THAT(error_with({"scheduler.lr_decay_style=cosin"}), HasSubstr("did you mean 'cosine'?"));
  EXPECT_THAT(error_with({"train.train_iters=1e3"}), HasSubstr("Write 1000"));
  EXPECT_THAT(error_with({"dataset.hf_dataset.dataset_nam=x"}), HasSubstr("did you mean 'dataset_name'?"));
  EXPECT_THAT(error_with({"dataset.hf_dataset={dataset_nam: x}"}), HasSubstr("did you mean 'dataset_name'?"));
  EXPECT_THAT(error_with({"train={train_itres: 5}"}), HasSubstr("did you mean 'train_iters'?"));
  EXPECT_THAT(error_with({"env_vars.A=1"}), HasSubstr("a + before the override adds it"));
  EXPECT_THAT(error_with({"+train.micro_batch_size=1", "+train.micro_batch_size=2"}), HasSubstr("take the + away"));
  EXPECT_THAT(error_with({"model.q_lora_rank=5"}), HasSubstr("'q_lora_rank' is no key of model"));
  EXPECT_THAT(error_with({"train.train_iters"}), HasSubstr("expected section.key=value"));
  EXPECT_THAT(error_with({"train=null"}), HasSubstr("cannot be null"));
  EXPECT_THAT(error_with({"train.train_iters=1,2"}), HasSubstr("a sweep"));
  EXPECT_THAT(error_with({"mixed_precision={fp8_param: true, fp8_param_gather: false}"}), HasSubstr("contradict"));
}

TEST(Overrides, WhatYamlCouldNotHoldIsRefused) {
  EXPECT_THAT(error_with({"++env_vars.A='\xff'"}), HasSubstr("not UTF-8"));
  EXPECT_THAT(error_with({"++env_vars.A=" + std::string(4301, '9')}), HasSubstr("an integer of 4301 digits"));
  std::string deep = "+dataset.dataset_kwargs";
  for (int i = 0; i < 49; ++i) deep += ".a";
  EXPECT_THAT(error_with({deep + "=1"}), HasSubstr("more than 50 words"));
  EXPECT_THAT(error_with({"dataset={_target_: my.Provider}", "dataset._target_=5"}),
              HasSubstr("expected the path of a class, found the integer 5"));
}

TEST(Overrides, AllErrorsAtOnceAndNothingHalfDone) {
  ConfigContainer config = start();
  const std::string error = error_of([&] {
    apply_overrides(config, std::vector<std::string>{"train.a=1", "train.train_iters=4", "optimizer.b=2"});
  });
  EXPECT_THAT(error, HasSubstr("override 'train.a=1'"));
  EXPECT_THAT(error, HasSubstr("override 'optimizer.b=2'"));
}

TEST(Overrides, CommandLineWinsOverFileOverRecipe) {
  ConfigContainer recipe = start();
  recipe.train.train_iters = 1;
  recipe.train.micro_batch_size = 1;
  recipe.train.global_batch_size = 1;
  std::get<GPTSFTDatasetConfig>(*recipe.dataset).dataset_kwargs = parse_yaml("{a: 1, b: 1}", "");
  const Path file = Path(::testing::TempDir()) / "experiment.yaml";
  write_file(file,
             "train:\n  micro_batch_size: 2\n  global_batch_size: 2\ndataset:\n  dataset_kwargs: {b: 2}\npeft:\n"
             "  _target_: LoRA\n  dim: 4\n");
  process_config_with_overrides(recipe, file, std::vector<std::string>{"train.global_batch_size=3"});
  EXPECT_EQ(recipe.train.train_iters, 1);
  EXPECT_EQ(recipe.train.micro_batch_size, 2);
  EXPECT_EQ(recipe.train.global_batch_size, 3);
  EXPECT_EQ(std::get<GPTSFTDatasetConfig>(*recipe.dataset).dataset_kwargs, parse_yaml("{a: 1, b: 2}", ""));
  EXPECT_EQ(std::get<LoRA>(*recipe.peft).dim, 4);

  write_file(file, "train:\n  micro_bach_size: 2\n");
  EXPECT_EQ(error_of([&] { merge_yaml_file(recipe, file); }),
            file.string() + ":2: train.micro_bach_size: there is no such key; did you mean 'micro_batch_size'?");
}

}  // namespace
}  // namespace viaduct::config
