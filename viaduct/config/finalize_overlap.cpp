// comm_overlap: what it sets in model, optimizer and ddp unless the user set it.
#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

constexpr int64_t kBucketSize = 128 << 20;  // parameters of a bucket when data-parallel communication overlaps

template <class T>
T chosen(const std::optional<T>& user, T otherwise) {
  return user.value_or(otherwise);
}

}  // namespace

void finalize_overlap(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  if (!config.comm_overlap) return;
  const CommOverlapConfig& user = *config.comm_overlap;
  ModelConfig& model = config.model;
  const std::string_view why = "comm_overlap";

  bool tensor_overlap = user.tp_comm_overlap;
  if (tensor_overlap && (model.tensor_model_parallel_size < 2 || !model.sequence_parallel)) {
    context.report.warnings.push_back(
        fmt::format("comm_overlap.tp_comm_overlap is off: it needs tensor and sequence parallelism ({}, {})",
                    shown("model.tensor_model_parallel_size", model.tensor_model_parallel_size),
                    shown("model.sequence_parallel", model.sequence_parallel)));
    tensor_overlap = false;
  }
  context.change("model.tp_comm_overlap", model.tp_comm_overlap, tensor_overlap, why);
  context.change("model.tp_comm_overlap_cfg", model.tp_comm_overlap_cfg,
                 tensor_overlap ? user.tp_comm_overlap_cfg : Yaml(), why);
  if (tensor_overlap && user.tp_comm_bootstrap_backend)
    context.change("model.tp_comm_bootstrap_backend", model.tp_comm_bootstrap_backend,
                   *user.tp_comm_bootstrap_backend, why);

  const bool pipelined = model.pipeline_model_parallel_size > 1;
  const bool interleaved = pipelined && model.virtual_pipeline_model_parallel_size.value_or(1) > 1;
  context.change("model.overlap_p2p_comm", model.overlap_p2p_comm, chosen(user.overlap_p2p_comm, interleaved), why);
  context.change("model.batch_p2p_comm", model.batch_p2p_comm,
                 chosen(user.batch_p2p_comm, pipelined && !interleaved), why);
  context.change("model.defer_embedding_wgrad_compute", model.defer_embedding_wgrad_compute,
                 chosen(user.defer_embedding_wgrad_compute, false), why);
  context.change("model.wgrad_deferral_limit", model.wgrad_deferral_limit,
                 chosen<int64_t>(user.wgrad_deferral_limit, -1), why);
  context.change("model.overlap_moe_expert_parallel_comm", model.overlap_moe_expert_parallel_comm,
                 chosen(user.overlap_moe_expert_parallel_comm, false), why);
  context.change("model.delay_wgrad_compute", model.delay_wgrad_compute, chosen(user.delay_wgrad_compute, false),
                 why);

  DistributedDataParallelConfig& ddp = config.ddp;
  if (!ddp.use_distributed_optimizer) return;
  const bool replicas = config.data_parallel_size > 1;
  const OptInt bucket = user.bucket_size ? user.bucket_size : replicas ? OptInt(kBucketSize) : std::nullopt;
  context.change("ddp.bucket_size", ddp.bucket_size, bucket, why);
  context.change("ddp.overlap_grad_reduce", ddp.overlap_grad_reduce, chosen(user.overlap_grad_reduce, replicas),
                 why);
  const bool gather = chosen(user.overlap_param_gather, replicas);
  context.change("ddp.overlap_param_gather", ddp.overlap_param_gather, gather, why);
  context.change("optimizer.overlap_param_gather", config.optimizer.overlap_param_gather, gather, why);
  context.change("optimizer.overlap_param_gather_with_optimizer_step",
                 config.optimizer.overlap_param_gather_with_optimizer_step,
                 chosen(user.overlap_param_gather_with_optimizer_step, false), why);
  context.change("ddp.align_param_gather", ddp.align_param_gather,
                 chosen(user.align_param_gather, replicas && interleaved), why);
  context.change("ddp.delay_wgrad_compute", ddp.delay_wgrad_compute, chosen(user.delay_wgrad_compute, false), why);
}

}  // namespace viaduct::config::detail
