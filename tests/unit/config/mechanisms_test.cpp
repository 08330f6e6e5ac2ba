// What is built and what is not: every field has an answer.
#include "viaduct/config/mechanisms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "viaduct/config/overrides.h"

namespace viaduct::config {
namespace {

using ::testing::HasSubstr;

/// The fields of every class of every section.
std::map<std::string, std::set<std::string>> fields_by_section() {
  std::map<std::string, std::set<std::string>> out;
  for (const ContainerSection& section : container_sections()) {
    ConfigContainer config;
    for (std::string& key : section.keys(config)) out[std::string(section.name)].insert(std::move(key));
  }
  for (const Field<ModelConfig>& field : fields<ModelConfig>()) out["model"].emplace(field.name);
  const auto add = [&]<class T>(const char* section, std::span<const Field<T>> all) {
    for (const Field<T>& field : all) out[section].emplace(field.name);
  };
  add("dataset", fields<GPTDatasetConfig>());
  add("dataset", fields<GPTSFTDatasetConfig>());
  add("dataset", fields<DirectHFSFTDatasetConfig>());
  add("dataset", fields<HFDatasetConfig>());
  add("dataset", fields<MockVLMSFTDatasetConfig>());
  add("dataset", fields<EnergonDatasetConfig>());
  add("peft", fields<LoRA>());
  add("peft", fields<CanonicalLoRA>());
  add("peft", fields<DoRA>());
  return out;
}

TEST(Mechanisms, EveryFieldIsListedOnce) {
  std::map<std::string, std::set<std::string>> listed;
  for (const FieldEntry& entry : field_entries()) {
    const std::string field(entry.field);
    if (field == "_target_") continue;
    EXPECT_TRUE(listed[std::string(entry.section)].insert(field).second)
        << entry.section << "." << field << " twice";
  }
  const auto all = fields_by_section();
  for (const auto& [section, names] : all)
    for (const std::string& name : names)
      EXPECT_TRUE(listed[section].contains(name)) << section << "." << name << " is in no list of mechanisms.inc";
  for (const auto& [section, names] : listed)
    for (const std::string& name : names)
      EXPECT_TRUE(all.contains(section) && all.at(section).contains(name))
          << section << "." << name << " is no field";
}

std::string refused(std::vector<std::string> overrides) {
  ConfigContainer config;
  config.dataset = GPTDatasetConfig{};
  apply_overrides(config, overrides);
  Violations violations;
  check_mechanisms(config, violations);
  std::string out;
  for (const Violation& violation : violations.list()) out += violation.problem + "; ";
  return out;
}

TEST(Mechanisms, DefaultsAreBuilt) { EXPECT_EQ(refused({}), ""); }

TEST(Mechanisms, WhatIsBuiltIsAccepted) {
  EXPECT_EQ(refused({"model.tensor_model_parallel_size=2",
                     "model.sequence_parallel=true",
                     "model.pipeline_model_parallel_size=2",
                     "model.virtual_pipeline_model_parallel_size=2",
                     "model.expert_model_parallel_size=2",
                     "model.expert_tensor_parallel_size=2",
                     "ddp.use_distributed_optimizer=true",
                     "ddp.overlap_grad_reduce=true",
                     "ddp.overlap_param_gather=true",
                     "optimizer.optimizer=sgd",
                     "logger.tensorboard_dir=/t",
                     "checkpoint.pretrained_checkpoint=/weights",
                     "checkpoint.save=/runs/1",
                     "checkpoint.load=/runs/1",
                     "checkpoint.async_save=true",
                     "dataset.num_workers=8",
                     "model.recompute_granularity=full",
                     "model.num_layers_in_first_pipeline_stage=1",
                     "model.pipeline_model_parallel_layout=Ett|ttL",
                     "model.bias_activation_fusion=true",
                     "model.mtp_num_layers=0",
                     "mixed_precision=fp16_mixed"}),
            "");
  EXPECT_EQ(refused({"optimizer.use_precision_aware_optimizer=true", "optimizer.exp_avg_dtype=torch.bfloat16",
                     "optimizer.exp_avg_sq_dtype=bf16", "optimizer.main_grads_dtype=torch.bfloat16",
                     "optimizer.store_param_remainders=true", "ddp.grad_reduce_in_fp32=false"}),
            "");
  EXPECT_EQ(
      refused({"+peft={_target_: LoRA, dim: 8, dropout: 0.1}", "dataset={_target_: FinetuningDatasetConfig}"}), "");
  EXPECT_EQ(refused({"+peft={_target_: CanonicalLoRA, target_modules: [linear_q]}"}), "");
}

TEST(Mechanisms, WhatIsNotBuiltSaysSo) {
  const std::pair<const char*, const char*> kCases[] = {
      {"model.context_parallel_size=2", "model.context_parallel_size=2: context parallelism is not built yet"},
      {"model.mtp_num_layers=1",
       "model.mtp_num_layers=1: training the layers of multi-token prediction is not built yet"},
      {"model.fp8=hybrid", "model.fp8=hybrid: training in FP8 is not built yet"},
      {"model.cuda_graph_impl=local", "CUDA graphs"},
      {"model.cpu_offloading=true", "activations in host memory"},
      {"dist.use_megatron_fsdp=true", "fully sharded data parallelism"},
      {"optimizer.optimizer=dist_muon", "this optimizer"},
      {"optimizer.exp_avg_dtype=torch.float16",
       "optimizer.exp_avg_dtype=torch.float16: a moment that needs a scale for each tensor (torch.float32 and "
       "torch.bfloat16 do not) is not built yet"},
      {"optimizer.exp_avg_sq_dtype=torch.uint8", "optimizer.exp_avg_sq_dtype=torch.uint8: a moment that needs"},
      {"optimizer.main_params_dtype=torch.float16", "main parameters in less than torch.float32 is not built yet"},
      {"checkpoint.ckpt_format=fsdp_dtensor", "this format of checkpoints"},
      {"logger.wandb_project=x", "Weights & Biases"},
      {"+peft={_target_: DoRA}", "training this kind of adapter"},
      {"+peft={_target_: VLMLoRA}", "training this kind of adapter"},
      {"+peft={_target_: LoRA, lora_dtype: {_call_: false, _target_: torch.float32}}",
       "another type than the model's"},
      {"dataset={_target_: GPTSFTDatasetConfig, hf_dataset: {dataset_name: squad}}", "data sets of the hub"},
      {"dataset={_target_: DirectHFSFTDatasetConfig}", "this class of data set"},
      {"dataset={_target_: EnergonDatasetConfig}", "this class of data set"},
      {"dataset={_target_: my.Provider}", "this class of data set"},
      {"rerun_state_machine.rerun_mode=validate_results", "running steps again"},
      {"ft.enable_ft_package=true", "fault tolerance"},
      {"optimizer_config_override_provider._target_=my.Provider", "a class of one's own"},
  };
  for (const auto& [override, message] : kCases) EXPECT_THAT(refused({override}), HasSubstr(message)) << override;
}

TEST(Mechanisms, MultiTokenPredictionSaysWhatBecomesOfItsWeights) {
  ConfigContainer config;
  config.dataset = GPTDatasetConfig{};
  config.model.mtp_num_layers = 1;
  Violations violations;
  check_mechanisms(config, violations);
  ASSERT_EQ(violations.list().size(), 1u);
  EXPECT_THAT(violations.list()[0].fix, HasSubstr("set model.mtp_num_layers=null"));
  EXPECT_THAT(violations.list()[0].fix, HasSubstr("neither loaded nor saved"));
}

}  // namespace
}  // namespace viaduct::config
