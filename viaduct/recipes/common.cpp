#include "viaduct/recipes/common.h"

#include <fmt/format.h>

#include <filesystem>

#include "viaduct/config/mixed_precision.h"
#include "viaduct/core/json.h"
#include "viaduct/models/known_size.h"
#include "viaduct/models/registry.h"

namespace viaduct::recipes {

using config::ConfigContainer;

namespace {

config::ModelConfig provider(const PublicModel& model) {
  const Json document = models::published_config(model.size);
  const models::HfConfig config(document, fmt::format("the recipe of {}", model.name));
  config::ModelConfig provider = models::provider_for(models::read_arch(config), document);
  provider.hf_model_id = std::string(model.name);
  if (!model.revision.empty()) provider.hf_model_revision = std::string(model.revision);
  provider.perform_initialization = true;  // a new model, not one that weights are loaded into
  provider.use_cpu_initialization = false;
  provider.cuda_graph_scope = provider.cuda_graph_modules = config::Yaml("full");
  provider.inference_cuda_graph_scope = std::nullopt;
  provider.offload_modules = std::nullopt;
  return provider;
}

void set_adam_with_cosine(ConfigContainer& config, double max_lr, double min_lr, double beta2, int64_t warmup) {
  auto& optimizer = config.optimizer;
  optimizer.optimizer = "adam";
  optimizer.lr = max_lr;
  optimizer.min_lr = min_lr;
  optimizer.weight_decay = 0.1;
  optimizer.bf16 = true;
  optimizer.adam_beta1 = 0.9;
  optimizer.adam_beta2 = beta2;
  optimizer.adam_eps = 1e-8;
  optimizer.use_distributed_optimizer = true;
  optimizer.clip_grad = 1.0;
  auto& scheduler = config.scheduler;
  scheduler.start_weight_decay = 0.033;
  scheduler.end_weight_decay = 0.033;
  scheduler.weight_decay_incr_style = "constant";
  scheduler.lr_decay_style = "cosine";
  scheduler.lr_wsd_decay_style = "minus_sqrt";
  scheduler.lr_warmup_iters = warmup;
  scheduler.lr_warmup_init = 0.0;
  scheduler.override_opt_param_scheduler = true;
}

ConfigContainer common(const PublicModel& model, int64_t save_interval) {
  ConfigContainer config;
  config.model = provider(model);
  const std::filesystem::path run = std::filesystem::current_path() / "nemo_experiments" / "default";
  config.logger.tensorboard_dir = (run / "tb_logs").string();
  config.logger.log_timers_to_tensorboard = true;
  config.checkpoint.save = config.checkpoint.load = (run / "checkpoints").string();
  config.checkpoint.save_interval = save_interval;
  config.checkpoint.ckpt_format = "torch_dist";
  config.checkpoint.fully_parallel_save = true;
  config.tokenizer.tokenizer_type = "HuggingFaceTokenizer";
  config.tokenizer.tokenizer_model = std::string(model.name);
  if (!model.revision.empty())
    config.tokenizer.hf_tokenizer_kwargs = config::Yaml::mapping({{"revision", std::string(model.revision)}});
  config.mixed_precision = std::string("bf16_mixed");
  config.env_vars = common_env_vars();
  return config;
}

ConfigContainer finetune_common(const PublicModel& model, double lr) {
  ConfigContainer config = common(model, 100);
  set_adam_with_cosine(config, lr, 0.0, 0.98, 50);
  config.train.train_iters = 1000;
  config.train.global_batch_size = 128;
  config.train.micro_batch_size = 1;
  config.validation.eval_interval = 100;
  config.validation.eval_iters = 32;
  config.ddp.check_for_nan_in_grad = true;
  config.ddp.grad_reduce_in_fp32 = true;
  config.logger.log_interval = 1;
  config.rng.seed = 5678;

  config::GPTSFTDatasetConfig data;
  data.hf_dataset.emplace().dataset_name = "squad";
  data.hf_validation_proportion = 0.1;
  config::PromptCompletionSFTPreprocessingConfig text;
  text.prompt_column = "input";
  text.completion_column = "output";
  text.separator = " ";
  data.preprocessing = text;
  data.do_test = false;
  data.enable_offline_packing = true;
  data.dataset_kwargs = config::Yaml::mapping({{"pad_to_max_length", true}});
  data.offline_packing_specs.emplace();
  data.seed = 5678;
  data.num_workers = 1;
  data.persistent_workers = false;
  config.dataset = data;
  set_seq_length(config, 2048);
  return config;
}

}  // namespace

config::Yaml common_env_vars() {
  return config::Yaml::mapping({{"NCCL_GRAPH_REGISTER", 0},
                                {"NCCL_NVLS_ENABLE", 0},
                                {"PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"},
                                {"TORCH_NCCL_AVOID_RECORD_STREAMS", 1},
                                {"TORCH_NCCL_HIGH_PRIORITY", 1}});
}

ConfigContainer pretrain_common(const PublicModel& model) {
  ConfigContainer config = common(model, 500);
  set_adam_with_cosine(config, 3e-4, 3e-5, 0.95, 500);
  config.model.cross_entropy_fusion_impl = "te";
  config.train.train_iters = 300000;
  config.train.global_batch_size = 32;
  config.train.micro_batch_size = 2;
  set_manual_gc(config);
  config.validation.eval_interval = 500;
  config.validation.eval_iters = 32;
  auto& ddp = config.ddp;
  ddp.check_for_nan_in_grad = true;
  ddp.grad_reduce_in_fp32 = true;
  ddp.overlap_grad_reduce = true;
  ddp.overlap_param_gather = true;
  ddp.average_in_collective = true;
  ddp.data_parallel_sharding_strategy = "optim_grads_params";
  ddp.use_distributed_optimizer = true;
  config.logger.log_interval = 10;
  config.tokenizer.use_tokenizer_vocab_size = true;
  config.rng.seed = 1234;

  config::GPTDatasetConfig data;
  data.random_seed = 1234;
  data.reset_attention_mask = false;
  data.reset_position_ids = false;
  data.eod_mask_loss = false;
  data.num_dataset_builder_threads = 1;
  data.split = "9999,8,2";
  data.dataloader_type = "single";
  data.num_workers = 8;
  config.dataset = data;
  set_seq_length(config, 4096);
  return config;
}

ConfigContainer sft_common(const PublicModel& model) { return finetune_common(model, 5e-6); }

ConfigContainer peft_common(const PublicModel& model) {
  ConfigContainer config = finetune_common(model, 1e-4);
  config.peft = config::LoRA{};
  return config;
}

ConfigContainer benchmark_pretraining(ConfigContainer config) {
  config.train.train_iters = 100;
  config.train.global_batch_size = 1024;
  config.train.micro_batch_size = 1;
  config.scheduler.lr_warmup_iters = 40;
  config.scheduler.lr_decay_iters = 100;
  config.optimizer.use_precision_aware_optimizer = true;
  config.checkpoint.save_interval = 50;
  config.checkpoint.load = std::nullopt;
  config::MixedPrecisionConfig precision = config::mixed_precision_recipe("bf16_mixed");
  precision.grad_reduce_in_fp32 = false;
  config.mixed_precision = precision;
  config.ddp.grad_reduce_in_fp32 = false;
  return config;
}

void set_manual_gc(ConfigContainer& config) {
  config.train.manual_gc = true;
  config.train.manual_gc_interval = 100;
  config.train.manual_gc_eval = true;
}

void set_seq_length(ConfigContainer& config, int64_t tokens) {
  config.model.seq_length = tokens;
  if (std::holds_alternative<config::GPTDatasetConfig>(config.dataset.value())) {
    gpt_dataset(config).seq_length = tokens;
    return;
  }
  sft_dataset(config).seq_length = tokens;
  sft_dataset(config).offline_packing_specs.value().packed_sequence_size = tokens;
}

config::LoRA& lora(ConfigContainer& config) { return std::get<config::LoRA>(config.peft.value()); }

config::GPTDatasetConfig& gpt_dataset(ConfigContainer& config) {
  return std::get<config::GPTDatasetConfig>(config.dataset.value());
}

config::GPTSFTDatasetConfig& sft_dataset(ConfigContainer& config) {
  return std::get<config::GPTSFTDatasetConfig>(config.dataset.value());
}

}  // namespace viaduct::recipes
