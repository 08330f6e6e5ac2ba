// The steps of finalize_config, each over one part of the configuration. Part of finalize.cpp.
#pragma once

#include "viaduct/config/finalize.h"

namespace viaduct::config::detail {

/// What a step reads and where it notes what it did.
struct FinalizeContext {
  ConfigContainer& config;
  const RunFacts& facts;
  FinalizeReport& report;
  Violations& violations;

  /// Sets a field and notes the change: "Set model.sequence_parallel True -> False: ...".
  template <class T>
  void change(std::string_view field, T& value, const T& wanted, std::string_view why) {
    const Yaml before = Codec<T>::encode(value), after = Codec<T>::encode(wanted);
    if (before == after) return;
    value = wanted;
    report.changes.push_back(
        fmt::format("Set {} {} -> {}: {}", field, python_text(before), python_text(after), why));
  }
  /// As Violations::check.
  void check(bool holds, std::string problem, std::string fix) {
    violations.check(holds, std::move(problem), std::move(fix));
  }
  /// The value of an environment variable.
  std::optional<std::string> variable(const std::string& name) const;
};

/// Sizes beyond all reason, which must not be multiplied.
void check_ranges(FinalizeContext& context);
/// Precision over model, optimizer and ddp.
void finalize_precision(FinalizeContext& context);
/// comm_overlap over model, optimizer and ddp; upstream's CommOverlapConfig.setup.
void finalize_overlap(FinalizeContext& context);
/// data_parallel_size; false when the world size does not fit, and what depends on it cannot be derived.
bool finalize_data_parallel_size(FinalizeContext& context);
/// Batch sizes and durations of train and validation.
void finalize_batches(FinalizeContext& context);
/// The scheduler's steps.
void finalize_schedule(FinalizeContext& context);
/// The model's derived fields, and its parallel sizes.
void finalize_model(FinalizeContext& context);
void check_parallel_sizes(FinalizeContext& context);
void check_pipeline(FinalizeContext& context);
void check_context_parallel(FinalizeContext& context);
void check_experts(FinalizeContext& context);
void check_expert_overlap(FinalizeContext& context);
void check_recompute(FinalizeContext& context);
void check_fusions(FinalizeContext& context);
/// The dataset, and what fine-tuning asks of the rest.
void finalize_dataset(FinalizeContext& context);
void check_finetuning(FinalizeContext& context);
void finalize_peft(FinalizeContext& context);
/// optimizer, ddp and FSDP.
void finalize_optimizer(FinalizeContext& context);
void finalize_fsdp(FinalizeContext& context);
void finalize_checkpoint(FinalizeContext& context);
/// logger, profiling, tensor_inspect, nvrx_straggler, rerun_state_machine, rng, dist.
void finalize_monitoring(FinalizeContext& context);

/// The dataset's seq_length; nullopt when its class is not known.
std::optional<int64_t> dataset_seq_length(const ConfigContainer& config);
/// Is the dataset one for supervised fine-tuning?
bool is_finetuning(const ConfigContainer& config);
/// "a multiple of 4".
inline bool divides(int64_t divisor, int64_t value) { return divisor > 0 && value % divisor == 0; }

}  // namespace viaduct::config::detail
