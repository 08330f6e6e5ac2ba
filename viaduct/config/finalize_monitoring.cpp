// What watches a run: logger, profiling, tensor inspection, stragglers, reruns; and the start of its processes.
#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

bool given(const OptString& text) { return text && !text->empty(); }

void check_logger(FinalizeContext& context) {
  const LoggerConfig& log = context.config.logger;
  context.check(
      log.throughput_window_size > 0,
      fmt::format("{} is not positive", shown("logger.throughput_window_size", log.throughput_window_size)),
      "set it to 1 or more");
  context.check(!log.log_memory_interval || *log.log_memory_interval > 0,
                fmt::format("{} is not positive", shown("logger.log_memory_interval", log.log_memory_interval)),
                "set it to 1 or more, or to null");
  context.check(log.log_interval > 0,
                fmt::format("{} is not positive", shown("logger.log_interval", log.log_interval)),
                "set it to 1 or more");
  context.check(
      log.tensorboard_log_interval > 0,
      fmt::format("{} is not positive", shown("logger.tensorboard_log_interval", log.tensorboard_log_interval)),
      "set it to 1 or more");
  context.check(!given(log.mlflow_experiment) || given(log.mlflow_run_name),
                "logger.mlflow_experiment without logger.mlflow_run_name", "set logger.mlflow_run_name");
  context.check(!given(log.comet_project) || given(log.comet_experiment_name),
                "logger.comet_project without logger.comet_experiment_name", "set logger.comet_experiment_name");
  context.check(!given(log.wandb_project) || given(log.wandb_exp_name),
                "logger.wandb_project without logger.wandb_exp_name", "set logger.wandb_exp_name");
}

void check_profiling(FinalizeContext& context) {
  const ProfilingConfig& p = context.config.profiling;
  context.check(!(p.use_pytorch_profiler && p.use_nsys_profiler),
                "profiling.use_pytorch_profiler=True and profiling.use_nsys_profiler=True: one profiler at a time",
                "set one of them to false");
  context.check(p.profile_step_start >= 0 && p.profile_step_end >= p.profile_step_start,
                fmt::format("{}, {}: the end comes before the start",
                            shown("profiling.profile_step_start", p.profile_step_start),
                            shown("profiling.profile_step_end", p.profile_step_end)),
                "set profiling.profile_step_end behind the start");
}

void check_stragglers(FinalizeContext& context) {
  if (!context.config.nvrx_straggler || !context.config.nvrx_straggler->enabled) return;
  const NVRxStragglerDetectionConfig& n = *context.config.nvrx_straggler;
  context.check(n.calc_relative_gpu_perf || n.calc_individual_gpu_perf,
                "nvrx_straggler.enabled=True, but neither relative nor individual performance is measured",
                "set nvrx_straggler.calc_relative_gpu_perf=true");
  context.check(n.report_time_interval > 0, "nvrx_straggler.report_time_interval is not positive",
                "set it to seconds");
  const auto in_unit = [&](std::string_view name, Number value) {
    context.check(value >= 0 && value <= 1, fmt::format("{} is not in [0, 1]", shown(name, value)),
                  "set it to a share");
  };
  in_unit("nvrx_straggler.gpu_relative_perf_threshold", n.gpu_relative_perf_threshold);
  in_unit("nvrx_straggler.gpu_individual_perf_threshold", n.gpu_individual_perf_threshold);
}

void check_start(FinalizeContext& context) {
  const DistributedInitConfig& dist = context.config.dist;
  context.check(dist.distributed_timeout_minutes > 0,
                fmt::format("{} is not positive",
                            shown("dist.distributed_timeout_minutes", dist.distributed_timeout_minutes)),
                "set it to 1 or more");
  context.check(!dist.use_decentralized_pg || !dist.use_gloo_process_groups,
                "dist.use_decentralized_pg=True with dist.use_gloo_process_groups=True",
                "set dist.use_gloo_process_groups=false");
  context.check(!dist.eval_context_parallel_size || dist.use_decentralized_pg,
                fmt::format("{} without dist.use_decentralized_pg",
                            shown("dist.eval_context_parallel_size", dist.eval_context_parallel_size)),
                "set dist.use_decentralized_pg=true, or it to null");
  const ModelConfig& model = context.config.model;
  const bool full_graph = model.cuda_graph_impl == "full_iteration";
  context.check(!full_graph || !context.config.rerun_state_machine.check_for_nan_in_loss,
                "model.cuda_graph_impl=full_iteration with rerun_state_machine.check_for_nan_in_loss=True",
                "set rerun_state_machine.check_for_nan_in_loss=false");
  context.check(!model.restore_modelopt_state || !model.gradient_accumulation_fusion,
                "model.restore_modelopt_state=True with model.gradient_accumulation_fusion=True",
                "set model.gradient_accumulation_fusion=false");
}

}  // namespace

void finalize_monitoring(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  check_logger(context);
  check_profiling(context);
  check_stragglers(context);
  check_start(context);
  if (!config.tensor_inspect || !config.tensor_inspect->enabled) return;
  TensorInspectConfig& inspect = *config.tensor_inspect;
  if (!inspect.log_dir)
    context.change("tensor_inspect.log_dir", inspect.log_dir, OptString(config.checkpoint.save.value_or(".")),
                   "beside the checkpoints");
  if (inspect.init_training_step == 0 && config.checkpoint.ckpt_step)
    context.change("tensor_inspect.init_training_step", inspect.init_training_step, *config.checkpoint.ckpt_step,
                   "checkpoint.ckpt_step");
}

}  // namespace viaduct::config::detail
