// Qwen3's model of 30 billion parameters, 3 of them active.
#include "viaduct/config/mixed_precision.h"
#include "viaduct/recipes/common.h"

namespace viaduct::recipes {

using config::ConfigContainer;

namespace {

constexpr PublicModel k30bA3b{
    .name = "Qwen/Qwen3-30B-A3B", .size = "qwen3-30b-a3b", .revision = "ad44e777bcd18fa416d9da3bd8f70d33ebb85d39"};

void set_layout(ConfigContainer& config, int64_t pipeline_parallel) {
  auto& model = config.model;
  model.tensor_model_parallel_size = 4;
  model.pipeline_model_parallel_size = pipeline_parallel;
  model.expert_model_parallel_size = 4;
  model.expert_tensor_parallel_size = 1;
  model.sequence_parallel = true;
  model.moe_token_dispatcher_type = "alltoall";
  model.moe_flex_dispatcher_backend = "deepep";
  model.moe_hybridep_num_sms = 16;
  model.cross_entropy_fusion_impl = "te";
}

ConfigContainer pretrain() {
  ConfigContainer config = pretrain_common(k30bA3b);
  set_layout(config, 2);
  config.model.pipeline_dtype = DType::kBF16;
  config.model.recompute_granularity = "full";
  config.model.recompute_method = "uniform";
  config.model.recompute_num_layers = 1;
  return config;
}

void set_finetuning(ConfigContainer& config) {
  config.train.train_iters = 100;
  config.train.global_batch_size = 32;
  config.train.manual_gc = true;
  config.train.manual_gc_interval = 100;
  config.train.manual_gc_eval = true;
  config.validation.eval_interval = 50;
  config.validation.eval_iters = 10;
  config.logger.log_interval = 10;
  config.optimizer.adam_beta2 = 0.95;
  config.scheduler.lr_warmup_iters = 10;
  config.scheduler.lr_decay_iters = 100;
  config.checkpoint.load = std::nullopt;
  auto& ddp = config.ddp;
  ddp.overlap_grad_reduce = true;
  ddp.overlap_param_gather = true;
  ddp.average_in_collective = true;
  ddp.use_distributed_optimizer = true;
  config.mixed_precision = config::mixed_precision_recipe("bf16_mixed");
  sft_dataset(config).seed = 1234;
  sft_dataset(config).offline_packing_specs.value().pad_seq_to_mult = 4;
}

ConfigContainer sft() {
  ConfigContainer config = sft_common(k30bA3b);
  set_layout(config, 2);
  set_finetuning(config);
  return config;
}

ConfigContainer peft() {
  ConfigContainer config = peft_common(k30bA3b);
  set_layout(config, 1);
  set_finetuning(config);
  lora(config).dim = 8;
  lora(config).alpha = 16;
  lora(config).target_modules = {"linear_qkv", "linear_proj"};
  return config;
}

}  // namespace

std::vector<Recipe> qwen3_moe_recipes() {
  return {
      {"qwen3_30b_a3b_pretrain", k30bA3b.name, "pretrain", pretrain},
      {"qwen3_30b_a3b_sft", k30bA3b.name, "sft", sft},
      {"qwen3_30b_a3b_peft", k30bA3b.name, "peft", peft},
  };
}

}  // namespace viaduct::recipes
