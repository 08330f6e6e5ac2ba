// Against what Megatron Bridge's runtime_config_update derives and refuses.
#include "viaduct/config/finalize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/config/config_fixture.h"
#include "viaduct/config/overrides.h"

namespace viaduct::config {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> overrides_of(const Json& row) {
  std::vector<std::string> out;
  for (const Json& text : row.at("overrides").items()) out.push_back(text.as_string());
  return out;
}

/// The environment in which the fixtures were made.
RunFacts facts(int64_t world_size) {
  RunFacts facts;
  facts.world_size = world_size;
  facts.only_what_is_built = false;
  facts.variable = [](const std::string& name) {
    return name == "CUDA_DEVICE_MAX_CONNECTIONS" ? std::optional<std::string>("1") : std::nullopt;
  };
  return facts;
}

std::map<std::string, Yaml> leaves_of(const ConfigContainer& config) {
  std::map<std::string, Yaml> out;
  testing::leaves(config.to_dict(), "", out);
  return out;
}

class Finalize : public ::testing::Test {
 protected:
  Json golden_ = testing::fixture("finalize.json");

  ConfigContainer base(size_t index = 0) const {
    return ConfigContainer::from_dict(parse_yaml(golden_.at("bases").items()[index].as_string(), "base"), "base");
  }

  std::string error_of(std::vector<std::string> overrides, RunFacts run) const {
    ConfigContainer config = base();
    apply_overrides(config, overrides);
    try {
      finalize_config(config, run);
    } catch (const UserError& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(Finalize, ArgumentsOfTokenizerClassesAreFields) {
  ConfigContainer config = base();
  apply_overrides(config, std::vector<std::string>{
                              "tokenizer.hf_tokenizer_kwargs={include_special_tokens: false, use_fast: false}",
                              "tokenizer.sp_tokenizer_kwargs={legacy: true}"});
  finalize_config(config, facts(1));
  EXPECT_TRUE(config.tokenizer.tokenizer_hf_no_include_special_tokens);
  EXPECT_TRUE(config.tokenizer.tokenizer_hf_no_use_fast);
  EXPECT_TRUE(config.tokenizer.tokenizer_sentencepiece_legacy);
  EXPECT_FALSE(config.tokenizer.trust_remote_code);
}

TEST_F(Finalize, DerivesWhatUpstreamDerivesAndRefusesWhatItRefuses) {
  int derived = 0, refused = 0;
  for (const Json& row : golden_.at("cases").items()) {
    const std::string& name = row.at("name").as_string();
    ConfigContainer config = base(static_cast<size_t>(row.at("base").as_int()));
    const std::map<std::string, Yaml> before = leaves_of(config);
    if (row.contains("error")) {
      ++refused;
      EXPECT_THROW(
          {
            apply_overrides(config, overrides_of(row));
            finalize_config(config, facts(row.at("world_size").as_int()));
          },
          UserError)
          << name << ": " << row.at("error").as_string();
      continue;
    }
    ++derived;
    try {
      apply_overrides(config, overrides_of(row));
      finalize_config(config, facts(row.at("world_size").as_int()));
    } catch (const UserError& error) {
      ADD_FAILURE() << name << ": " << error.what();
      continue;
    }
    EXPECT_EQ(config.data_parallel_size, row.at("data_parallel_size").as_int()) << name;
    const std::map<std::string, Yaml> after = leaves_of(config);
    for (const auto& [path, value] : after) {
      const Json* expected = row.at("changed").find(path);
      const auto was = before.find(path);
      const Yaml wanted = expected ? testing::yaml_of(*expected) : was == before.end() ? Yaml() : was->second;
      EXPECT_EQ(value, wanted) << name << ": " << path << " is " << value.describe() << ", not "
                               << wanted.describe();
    }
    for (const auto& [path, value] : row.at("changed").members()) EXPECT_TRUE(after.contains(path)) << name << path;
  }
  EXPECT_EQ(derived, 38);
  EXPECT_EQ(refused, 74);
}

TEST_F(Finalize, ASecondTimeChangesNothing) {
  for (const Json& row : golden_.at("cases").items()) {
    if (row.contains("error")) continue;
    ConfigContainer config = base(static_cast<size_t>(row.at("base").as_int()));
    apply_overrides(config, overrides_of(row));
    finalize_config(config, facts(row.at("world_size").as_int()));
    const std::string once = config.print_yaml();
    finalize_config(config, facts(row.at("world_size").as_int()));
    EXPECT_EQ(config.print_yaml(), once) << row.at("name").as_string();
  }
}

TEST_F(Finalize, FilesOfFinishedRunsAreFinalAlready) {
  for (const char* name : {"train_llama_bf16_dp2_fully_reshardable", "train_qwen3_moe_fp32_nodist"}) {
    ConfigContainer config =
        ConfigContainer::from_yaml(Path(VIADUCT_GOLDEN_DIR) / "run_configs" / (std::string(name) + ".yaml"));
    const Yaml before = config.to_dict();
    RunFacts run = facts(config.ddp.use_distributed_optimizer ? 2 : 1);
    finalize_config(config, run);
    EXPECT_EQ(config.to_dict(), before) << name;
  }
}

TEST_F(Finalize, AllViolationsAtOnceWithValuesAndFixes) {
  const std::string error = error_of({"dataset.seq_length=64", "train.global_batch_size=6", "optimizer.lr=null",
                                      "checkpoint.async_save=true", "model.recompute_granularity=full"},
                                     facts(4));
  EXPECT_THAT(error, HasSubstr("the configuration cannot be used (7 problems):"));
  EXPECT_THAT(error, HasSubstr("dataset.seq_length=64 is not model.seq_length=128"));
  EXPECT_THAT(error, HasSubstr("train.global_batch_size=6 is no multiple of 4"));
  EXPECT_THAT(error, HasSubstr("optimizer.lr=None: no learning rate"));
  EXPECT_THAT(error, HasSubstr("checkpoint.async_save=True without checkpoint.save"));
  EXPECT_THAT(error, HasSubstr("model.recompute_granularity=full without model.recompute_method"));
  EXPECT_THAT(error, HasSubstr("     fix: set model.recompute_num_layers to 1 to 4, the layers of a stage"));
}

TEST_F(Finalize, AnAdapterHasTargetsOrWhatItLeavesOut) {
  RunFacts elsewhere = facts(4);
  elsewhere.check_paths = false;
  const std::string base_model = "checkpoint.pretrained_checkpoint=/weights";
  for (const char* bad : {"+peft={_target_: LoRA, target_modules: []}",
                          "+peft={_target_: LoRA, target_modules: [linear_qkv], exclude_modules: [linear_proj]}"})
    EXPECT_THAT(error_of({base_model, bad}, elsewhere), HasSubstr("exactly one of them says what is adapted"));
  ConfigContainer config = base();
  apply_overrides(config,
                  std::vector<std::string>{
                      base_model, "+peft={_target_: LoRA, target_modules: [], exclude_modules: [linear_proj]}"});
  EXPECT_NO_THROW(finalize_config(config, elsewhere));
}

TEST_F(Finalize, PrecisionSaysWhatItOverwrites) {
  ConfigContainer config = base();
  apply_overrides(config, std::vector<std::string>{"mixed_precision=fp16_mixed"});
  const std::vector<std::string> changes = finalize_config(config, facts(4)).changes;
  EXPECT_THAT(changes, ::testing::Contains("Overwrote model.bf16 True -> False"));
  EXPECT_THAT(changes, ::testing::Contains("Overwrote model.params_dtype torch.bfloat16 -> torch.float16"));
  EXPECT_THAT(changes, ::testing::Contains("Overwrote optimizer.fp16 False -> True"));
}

TEST_F(Finalize, GlobalBatchSizeDefaultsToOneMicroBatchARank) {
  ConfigContainer config = base();
  config.train.global_batch_size.reset();
  config.train.micro_batch_size = 2;
  finalize_config(config, facts(4));
  EXPECT_EQ(config.train.global_batch_size, 8);
}

TEST_F(Finalize, OverlapFollowsTheLayoutUnlessSet) {
  ConfigContainer config = base();
  apply_overrides(
      config, std::vector<std::string>{"comm_overlap.tp_comm_overlap=true", "model.pipeline_model_parallel_size=2",
                                       "model.virtual_pipeline_model_parallel_size=2",
                                       "comm_overlap.overlap_param_gather=false"});
  const FinalizeReport report = finalize_config(config, facts(4));
  EXPECT_FALSE(config.model.tp_comm_overlap);
  EXPECT_THAT(report.warnings.at(0), HasSubstr("comm_overlap.tp_comm_overlap is off"));
  EXPECT_TRUE(config.model.overlap_p2p_comm);
  EXPECT_FALSE(config.model.batch_p2p_comm);
  EXPECT_TRUE(config.ddp.overlap_grad_reduce);
  EXPECT_FALSE(config.ddp.overlap_param_gather);
  EXPECT_EQ(config.ddp.bucket_size, 128 << 20);
}

TEST_F(Finalize, IntervalsOfTheLogArePositive) {
  for (const std::string field : {"log_memory_interval", "throughput_window_size"}) {
    EXPECT_THAT(error_of({"logger." + field + "=0"}, facts(4)),
                HasSubstr("logger." + field + "=0 is not positive"));
    EXPECT_EQ(error_of({"logger." + field + "=1"}, facts(4)), "no error");
  }
  EXPECT_THROW(error_of({"logger.runtime_time_unit=weeks"}, facts(4)), UserError);
}

TEST_F(Finalize, GradientsAreOfTheTypeThatDdpSays) {
  const std::vector<std::string> aware{"optimizer.use_precision_aware_optimizer=true",
                                       "optimizer.use_distributed_optimizer=true", "mixed_precision=bf16_mixed",
                                       "optimizer.main_grads_dtype=torch.bfloat16"};
  EXPECT_THAT(error_of(aware, facts(4)),
              HasSubstr("optimizer.main_grads_dtype is BF16, but gradients are kept in F32 with "
                        "ddp.grad_reduce_in_fp32=True"));
  std::vector<std::string> in_bf16 = aware;
  in_bf16.emplace_back("mixed_precision.grad_reduce_in_fp32=false");
  EXPECT_EQ(error_of(in_bf16, facts(4)), "no error");
}

TEST_F(Finalize, LayoutsThatDoNotFit) {
  EXPECT_THAT(error_of({"model.pipeline_model_parallel_size=4", "model.num_layers=6"}, facts(4)),
              HasSubstr("model.num_layers=6 is no multiple of 4"));
  EXPECT_THAT(error_of({"model.virtual_pipeline_model_parallel_size=2"}, facts(4)),
              HasSubstr("without a pipeline"));
  EXPECT_THAT(error_of({"model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2",
                        "train.global_batch_size=6"},
                       facts(4)),
              HasSubstr("takes 3 micro batches a step in groups of 2"));
  EXPECT_THAT(error_of({"model.num_moe_experts=8", "model.expert_model_parallel_size=3"}, facts(6)),
              HasSubstr("model.num_moe_experts=8 is no multiple of model.expert_model_parallel_size=3"));
  EXPECT_THAT(
      error_of({"model.num_moe_experts=8", "model.add_bias_linear=false", "model.tensor_model_parallel_size=2"},
               facts(4)),
      HasSubstr("experts with model.tensor_model_parallel_size=2 need sequence parallelism"));
}

TEST_F(Finalize, NullSectionsOfAnImport) {
  ConfigContainer config = ConfigContainer::from_yaml(Path(VIADUCT_GOLDEN_DIR) / "run_configs" / "llama.yaml");
  try {
    finalize_config(config, facts(1));
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("the section train is null"));
    EXPECT_THAT(error.what(), HasSubstr("the section dataset is null"));
  }
}

TEST_F(Finalize, EnvironmentDefaultsAreText) {
  ConfigContainer config = base();
  apply_overrides(config, std::vector<std::string>{"+env_vars.A=true", "+env_vars.B=1", "+env_vars.C=x"});
  EXPECT_EQ(environment_defaults(config),
            (std::vector<std::pair<std::string, std::string>>{{"A", "True"}, {"B", "1"}, {"C", "x"}}));
  config.env_vars.set("D", Yaml::sequence());
  EXPECT_THROW(environment_defaults(config), UserError);
}

}  // namespace
}  // namespace viaduct::config
