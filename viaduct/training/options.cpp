#include "viaduct/training/options.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/models/pipeline_options.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::training {

namespace {

std::optional<data::Blend> blend_of(const config::OptBlend& blend) {
  if (!blend) return std::nullopt;
  data::Blend result{blend->paths, std::nullopt};
  if (blend->weights) result.weights.emplace(blend->weights->begin(), blend->weights->end());
  return result;
}

}  // namespace

topology::Parallelism parallelism_of(const config::ModelConfig& model) {
  topology::Parallelism sizes;
  sizes.tp = static_cast<int>(model.tensor_model_parallel_size);
  sizes.pp = static_cast<int>(model.pipeline_model_parallel_size);
  sizes.vpp = static_cast<int>(model.virtual_pipeline_model_parallel_size.value_or(1));
  sizes.cp = static_cast<int>(model.context_parallel_size);
  sizes.ep = static_cast<int>(model.expert_model_parallel_size);
  sizes.etp = static_cast<int>(model.expert_tensor_parallel_size.value_or(model.tensor_model_parallel_size));
  sizes.split = models::pipeline_split(model);
  // A layout says by itself how many chunks a stage has.
  if (const auto& layout = sizes.split.pipeline_model_parallel_layout; layout && sizes.vpp == 1)
    sizes.vpp = std::max(static_cast<int>(layout->size()) / std::max(sizes.pp, 1), 1);
  return sizes;
}

optim::OptimizerOptions optimizer_options(const config::ConfigContainer& config) {
  const config::OptimizerConfig& from = config.optimizer;
  optim::OptimizerOptions to;
  to.update = {from.optimizer, from.adam_beta1,   from.adam_beta2,
               from.adam_eps,  from.sgd_momentum, from.decoupled_weight_decay};
  to.clip_grad = from.clip_grad;
  to.grad_norm_skip_threshold = from.grad_norm_skip_threshold;
  to.log_num_zeros_in_grad = from.log_num_zeros_in_grad || config.logger.log_num_zeros_in_grad;
  to.apply_wd_to_qk_layernorm = from.apply_wd_to_qk_layernorm;
  to.use_distributed_optimizer = from.use_distributed_optimizer;
  to.overlap_grad_reduce = config.ddp.overlap_grad_reduce;
  to.overlap_param_gather = config.ddp.overlap_param_gather;
  to.barrier_with_L1_time = from.barrier_with_L1_time;
  if (config.ddp.bucket_size) to.bucket_size = *config.ddp.bucket_size;
  const auto type = [](DType dtype) { return torchx::scalar_type(dtype); };
  const bool half = config.model.bf16 || config.model.fp16;
  to.main_grads_dtype = half && !config.ddp.grad_reduce_in_fp32 ? type(config.model.params_dtype) : at::kFloat;
  if (from.use_precision_aware_optimizer) {
    to.main_params_dtype = type(from.main_params_dtype);
    to.exp_avg_dtype = type(from.exp_avg_dtype);
    to.exp_avg_sq_dtype = type(from.exp_avg_sq_dtype);
  }
  if (from.fp16)
    to.loss_scaling = optim::LossScaleSettings{
        from.loss_scale ? std::optional<double>(*from.loss_scale) : std::nullopt, from.initial_loss_scale,
        from.min_loss_scale, static_cast<int64_t>(double{from.loss_scale_window}), from.hysteresis};
  return to;
}

optim::ParamScheduleOptions schedule_options(const config::ConfigContainer& config) {
  const config::SchedulerConfig& from = config.scheduler;
  optim::ParamScheduleOptions to;
  to.init_lr = from.lr_warmup_init;
  to.max_lr = config.optimizer.lr.value();
  to.min_lr = config.optimizer.min_lr.value_or(0.0);
  to.lr_warmup_steps = from.lr_warmup_steps.value_or(0);
  to.lr_decay_steps = from.lr_decay_steps.value();
  to.lr_decay_style = optim::parse_lr_decay_style(from.lr_decay_style);
  to.wsd_decay_steps = from.wsd_decay_steps;
  to.lr_wsd_decay_style = optim::parse_wsd_decay_style(from.lr_wsd_decay_style);
  to.start_wd = from.start_weight_decay.value_or(config.optimizer.weight_decay);
  to.end_wd = from.end_weight_decay.value_or(config.optimizer.weight_decay);
  to.wd_incr_steps = from.wd_incr_steps.value();
  to.wd_incr_style = optim::parse_wd_incr_style(from.weight_decay_incr_style);
  to.use_checkpoint_opt_param_scheduler = from.use_checkpoint_opt_param_scheduler;
  to.override_opt_param_scheduler = from.override_opt_param_scheduler;
  return to;
}

std::optional<optim::ParamGroupOverride> decoupled_group(const config::ConfigContainer& config) {
  if (!config.optimizer.decoupled_lr) return std::nullopt;
  return optim::ParamGroupOverride{config.optimizer.decoupled_lr, config.optimizer.decoupled_min_lr};
}

topology::BatchOptions batch_options(const config::ConfigContainer& config) {
  const config::TrainingConfig& train = config.train;
  topology::BatchOptions to;
  to.micro_batch_size = train.micro_batch_size.value();
  to.data_parallel_size = config.data_parallel_size;
  to.global_batch_size = train.global_batch_size;
  to.rampup_batch_size = train.rampup_batch_size;
  to.decrease_batch_size_if_needed = train.decrease_batch_size_if_needed;
  to.step_batch_size_schedule = train.step_batch_size_schedule;
  if (to.step_batch_size_schedule) to.seq_length = config.model.seq_length;
  return to;
}

data::GPTDatasetConfig gpt_dataset_config(const config::GPTDatasetConfig& from, data::DatasetTokenizer tokenizer) {
  data::GPTDatasetConfig to;
  to.random_seed = from.random_seed;
  to.sequence_length = from.seq_length;
  to.blend = blend_of(from.blend);
  if (from.blend_per_split) {
    to.blend_per_split.emplace();
    for (size_t i = 0; i < 3; ++i) (*to.blend_per_split)[i] = blend_of(from.blend_per_split->at(i));
  }
  to.split = from.split;
  to.multiple_validation_sets = from.multiple_validation_sets.value_or(false);
  to.full_validation = from.full_validation.value_or(false);
  to.num_dataset_builder_threads = static_cast<int>(from.num_dataset_builder_threads);
  to.path_to_cache = from.path_to_cache;
  to.mid_level_dataset_surplus = from.mid_level_dataset_surplus;
  to.allow_ambiguous_pad_tokens = from.allow_ambiguous_pad_tokens.value_or(false);
  to.fast_cache_load = from.fast_cache_load;
  to.reset_position_ids = from.reset_position_ids.value_or(false);
  to.reset_attention_mask = from.reset_attention_mask.value_or(false);
  to.eod_mask_loss = from.eod_mask_loss.value_or(false);
  to.create_attention_mask = false;  // attention is causal by itself
  to.drop_last_partial_validation_sequence = from.drop_last_partial_validation_sequence;
  to.add_extra_token_to_sequence = from.add_extra_token_to_sequence;
  to.inter_document_masking = from.inter_document_masking;
  to.tokenizer = std::move(tokenizer);
  return to;
}

int64_t train_iterations(const config::ConfigContainer& config, const topology::BatchSchedule& batches) {
  const config::TrainingConfig& train = config.train;
  if (!train.train_samples) return train.train_iters.value();
  if (batches.is_constant()) return *train.train_samples / batches.final_global_batch_size();
  int64_t iterations = 0;
  for (int64_t consumed = 0; consumed < *train.train_samples; ++iterations)
    consumed += batches.at(consumed).running;
  return iterations;
}

}  // namespace viaduct::training
