// Llama 3.1 and 3.2.
#include "viaduct/recipes/common.h"

namespace viaduct::recipes {

using config::ConfigContainer;

namespace {

constexpr PublicModel k32With1b{.name = "meta-llama/Llama-3.2-1B", .size = "llama-3.2-1b"};
constexpr PublicModel k32With3b{.name = "meta-llama/Llama-3.2-3B", .size = "llama-3.2-3b"};
constexpr PublicModel k31With8b{.name = "meta-llama/Meta-Llama-3.1-8B", .size = "llama-3.1-8b"};

ConfigContainer pretrain(const PublicModel& model) {
  ConfigContainer config = pretrain_common(model);
  set_seq_length(config, 8192);
  config.tokenizer.tokenizer_type = "NullTokenizer";
  config.tokenizer.tokenizer_model = std::nullopt;
  config.tokenizer.vocab_size = 32000;
  config.train.train_iters = 1168251;
  config.train.global_batch_size = 512;
  config.train.micro_batch_size = 1;
  config.validation.eval_interval = 2000;
  config.scheduler.lr_warmup_iters = 2000;
  config.ddp.data_parallel_sharding_strategy = "no_shard";
  return config;
}

void set_finetuning(ConfigContainer& config) {
  set_seq_length(config, 4096);
  config.train.global_batch_size = 8;  // of packs
  set_manual_gc(config);
  config.validation.eval_interval = 30;
  config.checkpoint.save_interval = 50;
  config.ddp.grad_reduce_in_fp32 = false;
}

ConfigContainer sft(const PublicModel& model) {
  ConfigContainer config = sft_common(model);
  set_finetuning(config);
  return config;
}

ConfigContainer peft(const PublicModel& model) {
  ConfigContainer config = peft_common(model);
  set_finetuning(config);
  config.optimizer.use_distributed_optimizer = false;
  config.model.cross_entropy_loss_fusion = false;
  return config;
}

}  // namespace

std::vector<Recipe> llama3_recipes() {
  return {
      {"llama32_1b_pretrain", k32With1b.name, "pretrain", [] { return pretrain(k32With1b); }},
      {"llama32_1b_sft", k32With1b.name, "sft", [] { return sft(k32With1b); }},
      {"llama32_1b_peft", k32With1b.name, "peft", [] { return peft(k32With1b); }},
      {"llama32_3b_pretrain", k32With3b.name, "pretrain", [] { return pretrain(k32With3b); }},
      {"llama32_3b_sft", k32With3b.name, "sft", [] { return sft(k32With3b); }},
      {"llama32_3b_peft", k32With3b.name, "peft", [] { return peft(k32With3b); }},
      {"llama31_8b_pretrain", k31With8b.name, "pretrain",
       [] {
         ConfigContainer config = pretrain(k31With8b);
         config.model.context_parallel_size = 2;
         return config;
       }},
      {"llama31_8b_sft", k31With8b.name, "sft",
       [] {
         ConfigContainer config = sft(k31With8b);
         config.model.tensor_model_parallel_size = 2;
         return config;
       }},
      {"llama31_8b_peft", k31With8b.name, "peft",
       [] {
         ConfigContainer config = peft(k31With8b);
         lora(config).dim = 8;
         lora(config).alpha = 16;
         return config;
       }},
  };
}

}  // namespace viaduct::recipes
