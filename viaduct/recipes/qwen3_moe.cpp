// Qwen3's model of 30 billion parameters, 3 of them active.
#include "viaduct/config/mixed_precision.h"
#include "viaduct/recipes/common.h"

namespace viaduct::recipes {

using config::ConfigContainer;

namespace {

constexpr PublicModel k30bA3b{
    .name = "Qwen/Qwen3-30B-A3B", .size = "qwen3-30b-a3b", .revision = "ad44e777bcd18fa416d9da3bd8f70d33ebb85d39"};

// Experts on 16 ranks, everything else on each.
void set_expert_layout(ConfigContainer& config) {
  auto& model = config.model;
  model.expert_model_parallel_size = 16;
  model.expert_tensor_parallel_size = 1;
  model.bias_activation_fusion = true;
  model.apply_rope_fusion = true;
  model.moe_router_fusion = true;
  model.cross_entropy_fusion_impl = "te";
}

ConfigContainer pretrain() {
  ConfigContainer config = benchmark_pretraining(pretrain_common(k30bA3b));
  set_expert_layout(config);
  auto& model = config.model;
  model.pipeline_dtype = DType::kBF16;
  model.moe_token_dispatcher_type = "flex";
  model.moe_flex_dispatcher_backend = "hybridep";
  model.moe_hybridep_num_sms = 32;
  model.cuda_graph_impl = "transformer_engine";
  model.cuda_graph_scope = config::Yaml::sequence({"moe_router", "moe_preprocess"});
  model.use_te_rng_tracker = true;
  config.rng.te_rng_tracker = true;
  config.comm_overlap.emplace().tp_comm_overlap = true;
  return config;
}

void set_finetuning(ConfigContainer& config) {
  config.train.train_iters = 100;
  config.train.global_batch_size = 32;
  set_manual_gc(config);
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
}

ConfigContainer sft() {
  ConfigContainer config = sft_common(k30bA3b);
  set_expert_layout(config);
  set_finetuning(config);
  config.model.moe_token_dispatcher_type = "alltoall";
  return config;
}

ConfigContainer peft() {
  ConfigContainer config = peft_common(k30bA3b);
  set_finetuning(config);
  auto& model = config.model;
  model.tensor_model_parallel_size = 4;
  model.expert_model_parallel_size = 4;
  model.expert_tensor_parallel_size = 1;
  model.sequence_parallel = true;
  model.moe_token_dispatcher_type = "flex";
  model.moe_flex_dispatcher_backend = "deepep";
  model.moe_hybridep_num_sms = 16;
  model.cross_entropy_fusion_impl = "te";
  sft_dataset(config).offline_packing_specs.value().pad_seq_to_mult = 4;
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
