// The optimizer, gradients and their reduction (ddp), and fully sharded data parallelism.
#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

/// One switch of ddp and of the optimizer that must agree: on in either, on in both.
void sync(FinalizeContext& context, std::string_view name, bool& ddp, bool& optimizer) {
  if (ddp == optimizer) return;
  const std::string why = fmt::format("{} is on in ddp or optimizer, so in both", name);
  context.change(fmt::format("ddp.{}", name), ddp, true, why);
  context.change(fmt::format("optimizer.{}", name), optimizer, true, why);
}

void check_precision_aware(FinalizeContext& context) {
  const OptimizerConfig& o = context.config.optimizer;
  const ModelConfig& model = context.config.model;
  if (!o.use_precision_aware_optimizer) {
    const std::pair<std::string_view, TorchDtype> kinds[] = {{"main_grads_dtype", o.main_grads_dtype},
                                                             {"main_params_dtype", o.main_params_dtype},
                                                             {"exp_avg_dtype", o.exp_avg_dtype},
                                                             {"exp_avg_sq_dtype", o.exp_avg_sq_dtype}};
    for (const auto& [name, dtype] : kinds)
      context.check(
          dtype == DType::kF32,
          fmt::format("optimizer.{} is {} with optimizer.use_precision_aware_optimizer=False", name, dtype),
          "set optimizer.use_precision_aware_optimizer=true, or the type to torch.float32");
    return;
  }
  context.check(o.optimizer == "adam",
                fmt::format("optimizer.use_precision_aware_optimizer=True with {}",
                            shown("optimizer.optimizer", o.optimizer)),
                "set optimizer.optimizer=adam");
  context.check(o.use_distributed_optimizer,
                "optimizer.use_precision_aware_optimizer=True without the distributed optimizer",
                "set optimizer.use_distributed_optimizer=true");
  // What holds gradients is of the type that ddp says; main_grads_dtype only says it again, as for Megatron-LM.
  const bool half = (model.bf16 || model.fp16) && !context.config.ddp.grad_reduce_in_fp32;
  const DType gradients = half ? model.params_dtype : DType::kF32;
  context.check(
      o.main_grads_dtype == DType::kF32 || o.main_grads_dtype == gradients,
      fmt::format("optimizer.main_grads_dtype is {}, but gradients are kept in {} with {}", o.main_grads_dtype,
                  gradients, shown("ddp.grad_reduce_in_fp32", context.config.ddp.grad_reduce_in_fp32)),
      "set ddp.grad_reduce_in_fp32=false (and mixed_precision.grad_reduce_in_fp32=false), or "
      "optimizer.main_grads_dtype=torch.float32");
  context.check(o.bf16 == model.bf16 && o.fp16 == model.fp16,
                fmt::format("optimizer.use_precision_aware_optimizer=True with {}, {} but {}, {}",
                            shown("optimizer.bf16", o.bf16), shown("optimizer.fp16", o.fp16),
                            shown("model.bf16", model.bf16), shown("model.fp16", model.fp16)),
                "set mixed_precision, which sets both alike");
}

void check_numbers(FinalizeContext& context) {
  const OptimizerConfig& o = context.config.optimizer;
  const auto in_unit = [&](std::string_view name, Number value) {
    context.check(value >= 0 && value < 1, fmt::format("{} is not in [0, 1)", shown(name, value)),
                  "set it below 1");
  };
  context.check(o.lr && *o.lr >= 0, fmt::format("{}: no learning rate", shown("optimizer.lr", o.lr)),
                "set optimizer.lr, e.g. optimizer.lr=3e-4");
  if (o.lr && o.min_lr)
    context.check(
        *o.min_lr >= 0 && *o.min_lr <= *o.lr,
        fmt::format("{} is not between 0 and {}", shown("optimizer.min_lr", o.min_lr), shown("optimizer.lr", o.lr)),
        "lower optimizer.min_lr");
  in_unit("optimizer.adam_beta1", o.adam_beta1);
  in_unit("optimizer.adam_beta2", o.adam_beta2);
  in_unit("optimizer.sgd_momentum", o.sgd_momentum);
  context.check(o.adam_eps > 0, fmt::format("{} is not positive", shown("optimizer.adam_eps", o.adam_eps)),
                "set it to e.g. 1e-8");
  context.check(o.clip_grad >= 0, fmt::format("{} is negative", shown("optimizer.clip_grad", o.clip_grad)),
                "set it to 0 for no clipping");
  context.check(!o.loss_scale || *o.loss_scale > 0,
                fmt::format("{} is not positive", shown("optimizer.loss_scale", o.loss_scale)),
                "set it to a power of 2, or null for a dynamic scale");
}

void check_ddp(FinalizeContext& context) {
  const DistributedDataParallelConfig& ddp = context.config.ddp;
  context.check(!ddp.reuse_grad_buf_for_mxfp8_param_ag || ddp.fp8_param_gather,
                "ddp.reuse_grad_buf_for_mxfp8_param_ag=True with ddp.fp8_param_gather=False",
                "set ddp.fp8_param_gather=true, or the first to false");
  context.check(ddp.param_name_patterns_for_fp32_local_accumulation.empty() || !ddp.grad_reduce_in_fp32,
                "ddp.param_name_patterns_for_fp32_local_accumulation with ddp.grad_reduce_in_fp32=True",
                "all gradients are fp32 already: set the patterns to []");
  context.check(!(ddp.num_buckets && ddp.bucket_size),
                fmt::format("{} and {} both say how large buckets are", shown("ddp.num_buckets", ddp.num_buckets),
                            shown("ddp.bucket_size", ddp.bucket_size)),
                "set one of them to null");
  context.check(!ddp.num_buckets || *ddp.num_buckets > 0,
                fmt::format("{} is not positive", shown("ddp.num_buckets", ddp.num_buckets)),
                "set it to 1 or more");
  context.check(!ddp.bucket_size || *ddp.bucket_size > 0,
                fmt::format("{} is not positive", shown("ddp.bucket_size", ddp.bucket_size)),
                "set it to a number of parameters, or null");
  context.check(!ddp.overlap_param_gather || ddp.use_distributed_optimizer,
                "ddp.overlap_param_gather=True without the distributed optimizer",
                "set ddp.use_distributed_optimizer=true");
  context.check(!ddp.average_in_collective || !context.config.model.calculate_per_token_loss,
                "ddp.average_in_collective=True with model.calculate_per_token_loss=True, which divides by tokens",
                "set ddp.average_in_collective=false");
  const int64_t instances = ddp.num_distributed_optimizer_instances;
  const int64_t replicas =
      context.config.data_parallel_size * std::max<int64_t>(context.config.model.context_parallel_size, 1);
  context.check(
      instances == 1 || (ddp.use_distributed_optimizer && (replicas == 0 || divides(instances, replicas))),
      fmt::format("{} with {} replicas and {}", shown("ddp.num_distributed_optimizer_instances", instances),
                  replicas, shown("ddp.use_distributed_optimizer", ddp.use_distributed_optimizer)),
      "set it to a divisor of the replicas, with ddp.use_distributed_optimizer=true");
}

}  // namespace

void finalize_optimizer(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  sync(context, "use_distributed_optimizer", config.ddp.use_distributed_optimizer,
       config.optimizer.use_distributed_optimizer);
  sync(context, "overlap_param_gather", config.ddp.overlap_param_gather, config.optimizer.overlap_param_gather);
  if (config.optimizer.use_layer_wise_distributed_optimizer && config.optimizer.use_distributed_optimizer)
    context.report.warnings.push_back(
        "optimizer.use_layer_wise_distributed_optimizer beside use_distributed_optimizer");
  check_precision_aware(context);
  check_numbers(context);
  check_ddp(context);
  context.check(
      !(config.optimizer.reuse_grad_buf_for_mxfp8_param_ag &&
        config.optimizer.overlap_param_gather_with_optimizer_step),
      "optimizer.overlap_param_gather_with_optimizer_step=True with reuse_grad_buf_for_mxfp8_param_ag=True",
      "set one of them to false");
  context.check(
      !config.optimizer.overlap_param_gather_with_optimizer_step ||
          (config.optimizer.overlap_param_gather && config.ddp.overlap_param_gather &&
           config.model.virtual_pipeline_model_parallel_size.value_or(1) > 1),
      "optimizer.overlap_param_gather_with_optimizer_step=True needs ddp.overlap_param_gather=True and an "
      "interleaved pipeline",
      "set it to false, or the others so");
}

void finalize_fsdp(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  DistributedDataParallelConfig& ddp = config.ddp;
  const CheckpointConfig& checkpoint = config.checkpoint;
  const bool stores = checkpoint.save || checkpoint.load;
  context.check(!(config.dist.use_megatron_fsdp && config.dist.use_torch_fsdp2),
                "dist.use_megatron_fsdp=True and dist.use_torch_fsdp2=True exclude each other",
                "set one of them to false");
  if (!config.dist.use_megatron_fsdp && !ddp.use_megatron_fsdp) {
    context.check(!stores || checkpoint.ckpt_format != "fsdp_dtensor",
                  "checkpoint.ckpt_format=fsdp_dtensor without Megatron FSDP",
                  "set checkpoint.ckpt_format=torch_dist, or dist.use_megatron_fsdp=true");
    return;
  }
  const std::string_view why = "Megatron FSDP";
  context.change("dist.use_megatron_fsdp", config.dist.use_megatron_fsdp, true, why);
  context.change("ddp.use_megatron_fsdp", ddp.use_megatron_fsdp, true, why);
  context.change("ddp.use_distributed_optimizer", ddp.use_distributed_optimizer, true, why);
  context.change("optimizer.use_distributed_optimizer", config.optimizer.use_distributed_optimizer, true, why);
  if (config.optimizer.use_precision_aware_optimizer)
    context.change("ddp.megatron_fsdp_use_decoupled_grad", ddp.megatron_fsdp_use_decoupled_grad, true, why);
  if (!ddp.disable_symmetric_registration)
    context.change("ddp.average_in_collective", ddp.average_in_collective, false, why);
  context.change("ddp.reuse_grad_buf_for_mxfp8_param_ag", ddp.reuse_grad_buf_for_mxfp8_param_ag, false, why);
  context.change("optimizer.reuse_grad_buf_for_mxfp8_param_ag", config.optimizer.reuse_grad_buf_for_mxfp8_param_ag,
                 false, why);
  context.check(!stores || checkpoint.ckpt_format == "fsdp_dtensor",
                fmt::format("Megatron FSDP with {}", shown("checkpoint.ckpt_format", checkpoint.ckpt_format)),
                "set checkpoint.ckpt_format=fsdp_dtensor");
  context.check(context.variable("CUDA_DEVICE_MAX_CONNECTIONS") != "1",
                "Megatron FSDP with CUDA_DEVICE_MAX_CONNECTIONS=1", "unset it, or set it higher");
  if (ddp.nccl_ub)
    context.change("ddp.fsdp_manual_registration", ddp.fsdp_manual_registration, true, "ddp.nccl_ub");
  context.check(ddp.nccl_ub || !ddp.fsdp_manual_registration,
                "ddp.fsdp_manual_registration=True without ddp.nccl_ub", "set ddp.nccl_ub=true");
  context.check(ddp.data_parallel_sharding_strategy != "optim_grads_params" ||
                    !config.train.check_weight_hash_across_dp_replicas_interval,
                "train.check_weight_hash_across_dp_replicas_interval with sharded parameters",
                "set train.check_weight_hash_across_dp_replicas_interval=null");
  context.check(!config.dist.use_tp_pp_dp_mapping, "dist.use_tp_pp_dp_mapping=True with Megatron FSDP",
                "set dist.use_tp_pp_dp_mapping=false");
}

}  // namespace viaduct::config::detail
