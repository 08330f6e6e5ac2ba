// Qwen3, the dense models.
#include "viaduct/config/mixed_precision.h"
#include "viaduct/recipes/common.h"

namespace viaduct::recipes {

using config::ConfigContainer;

namespace {

constexpr PublicModel k600m{.name = "Qwen/Qwen3-0.6B", .size = "qwen3-0.6b"};
constexpr PublicModel k1p7b{.name = "Qwen/Qwen3-1.7B", .size = "qwen3-1.7b"};
constexpr PublicModel k4b{.name = "Qwen/Qwen3-4B", .size = "qwen3-4b"};
constexpr PublicModel k8b{
    .name = "Qwen/Qwen3-8B", .size = "qwen3-8b", .revision = "b968826d9c46dd6066d109eabc6255188de91218"};

ConfigContainer pretrain(const PublicModel& model, int64_t tensor_parallel = 1) {
  ConfigContainer config = pretrain_common(model);
  config.model.tensor_model_parallel_size = tensor_parallel;
  return config;
}

void set_finetuning(ConfigContainer& config) {
  config.train.global_batch_size = 8;  // of packs
  config.validation.eval_interval = 30;
  config.checkpoint.save_interval = 50;
  config.ddp.grad_reduce_in_fp32 = false;
}

ConfigContainer sft(const PublicModel& model, int64_t tensor_parallel = 1) {
  ConfigContainer config = sft_common(model);
  set_finetuning(config);
  config.model.tensor_model_parallel_size = tensor_parallel;
  return config;
}

ConfigContainer peft(const PublicModel& model) {
  ConfigContainer config = peft_common(model);
  set_finetuning(config);
  return config;
}

/// The 8B model is tuned for 100 steps of 32 packs.
void set_short_tuning(ConfigContainer& config, int64_t pad_to_multiple) {
  config.train.train_iters = 100;
  config.train.global_batch_size = 32;
  config.optimizer.adam_beta2 = 0.95;
  config.scheduler.lr_warmup_iters = 10;
  config.scheduler.lr_decay_iters = 100;
  config.checkpoint.save_interval = 100;
  config.checkpoint.load = std::nullopt;
  config.ddp.grad_reduce_in_fp32 = true;
  config.ddp.use_distributed_optimizer = true;
  config.mixed_precision = config::mixed_precision_recipe("bf16_mixed");
  sft_dataset(config).seed = 1234;
  sft_dataset(config).offline_packing_specs.value().pad_seq_to_mult = pad_to_multiple;
}

}  // namespace

std::vector<Recipe> qwen3_recipes() {
  return {
      {"qwen3_600m_pretrain", k600m.name, "pretrain", [] { return pretrain(k600m); }},
      {"qwen3_600m_sft", k600m.name, "sft", [] { return sft(k600m); }},
      {"qwen3_600m_peft", k600m.name, "peft", [] { return peft(k600m); }},
      {"qwen3_1p7b_pretrain", k1p7b.name, "pretrain", [] { return pretrain(k1p7b); }},
      {"qwen3_1p7b_sft", k1p7b.name, "sft", [] { return sft(k1p7b); }},
      {"qwen3_1p7b_peft", k1p7b.name, "peft", [] { return peft(k1p7b); }},
      {"qwen3_4b_pretrain", k4b.name, "pretrain", [] { return pretrain(k4b, 2); }},
      {"qwen3_4b_sft", k4b.name, "sft", [] { return sft(k4b, 2); }},
      {"qwen3_4b_peft", k4b.name, "peft", [] { return peft(k4b); }},
      {"qwen3_8b_pretrain", k8b.name, "pretrain", [] { return benchmark_pretraining(pretrain_common(k8b)); }},
      {"qwen3_8b_sft", k8b.name, "sft",
       [] {
         ConfigContainer config = sft(k8b, 4);
         set_short_tuning(config, 1);
         return config;
       }},
      {"qwen3_8b_peft", k8b.name, "peft",
       [] {
         ConfigContainer config = peft(k8b);
         set_short_tuning(config, 4);
         lora(config).dim = 8;
         lora(config).alpha = 16;
         lora(config).target_modules = {"linear_qkv", "linear_proj"};
         return config;
       }},
  };
}

}  // namespace viaduct::recipes
