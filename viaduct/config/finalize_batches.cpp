// Batch sizes and durations of train and validation.
#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

/// train's old places of validation's fields.
void move_validation(FinalizeContext& context) {
  TrainingConfig& train = context.config.train;
  ValidationConfig& validation = context.config.validation;
  const auto moved = [&](std::string_view name) {
    context.report.warnings.push_back(fmt::format("train.{0} is validation.{0} now; it was taken over", name));
  };
  if (train.eval_iters) moved("eval_iters"), validation.eval_iters = train.eval_iters;
  if (train.eval_interval) moved("eval_interval"), validation.eval_interval = train.eval_interval;
  if (train.skip_train) moved("skip_train"), validation.skip_train = *train.skip_train;
}

void check_positive(FinalizeContext& context, std::string_view name, const OptInt& value) {
  if (value)
    context.check(*value > 0, fmt::format("{} is not positive", shown(name, value)), "set it to 1 or more");
}

void check_rampup(FinalizeContext& context, int64_t per_step) {
  const TrainingConfig& train = context.config.train;
  if (!train.rampup_batch_size) return;
  const Ints& ramp = *train.rampup_batch_size;
  if (ramp.size() != 3) {
    context.violations.add(fmt::format("{} has {} entries", shown("train.rampup_batch_size", ramp), ramp.size()),
                           "give it three: first batch size, increment, samples of the whole ramp");
    return;
  }
  const int64_t begin = ramp[0], step = ramp[1], end = *train.global_batch_size;
  context.check(begin > 0 && step > 0 && ramp[2] >= 0 && divides(step, end - begin) && begin <= end,
                fmt::format("{}: the way to {} is no whole number of increments",
                            shown("train.rampup_batch_size", ramp), shown("train.global_batch_size", end)),
                fmt::format("choose an increment that divides {}", end - begin));
  context.check(
      train.decrease_batch_size_if_needed || (divides(per_step, begin) && divides(per_step, step)),
      fmt::format("{}: batch size and increment must be multiples of {} (micro batch size * data parallel size)",
                  shown("train.rampup_batch_size", ramp), per_step),
      "choose such multiples, or set train.decrease_batch_size_if_needed=true");
}

void finalize_evaluation(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  ValidationConfig& validation = config.validation;
  if (!validation.eval_global_batch_size) validation.eval_global_batch_size = config.train.global_batch_size;
  if (!validation.eval_micro_batch_size) validation.eval_micro_batch_size = config.train.micro_batch_size;
  check_positive(context, "validation.eval_global_batch_size", validation.eval_global_batch_size);
  check_positive(context, "validation.eval_micro_batch_size", validation.eval_micro_batch_size);
  check_positive(context, "validation.eval_interval", validation.eval_interval);
  const int64_t per_step = *validation.eval_micro_batch_size * config.data_parallel_size;
  context.check(divides(per_step, *validation.eval_global_batch_size),
                fmt::format("{} is no multiple of {} ({} * data parallel size {})",
                            shown("validation.eval_global_batch_size", validation.eval_global_batch_size), per_step,
                            shown("validation.eval_micro_batch_size", validation.eval_micro_batch_size),
                            config.data_parallel_size),
                fmt::format("set validation.eval_global_batch_size to a multiple of {}", per_step));
}

}  // namespace

void finalize_batches(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  TrainingConfig& train = config.train;
  move_validation(context);
  if (!train.micro_batch_size) {
    context.violations.add("train.micro_batch_size=None: no size of a micro batch",
                           "set train.micro_batch_size=1 or more");
    return;
  }
  check_positive(context, "train.micro_batch_size", train.micro_batch_size);
  check_positive(context, "train.exit_interval", train.exit_interval);
  if (*train.micro_batch_size < 1) return;
  const int64_t per_step = *train.micro_batch_size * config.data_parallel_size;
  if (!train.global_batch_size)
    context.change("train.global_batch_size", train.global_batch_size, OptInt(per_step),
                   "micro batch size * data parallel size");
  check_positive(context, "train.global_batch_size", train.global_batch_size);
  if (*train.global_batch_size < 1) return;
  context.check(
      train.decrease_batch_size_if_needed || divides(per_step, *train.global_batch_size),
      fmt::format("{} is no multiple of {} ({} * data parallel size {})",
                  shown("train.global_batch_size", train.global_batch_size), per_step,
                  shown("train.micro_batch_size", train.micro_batch_size), config.data_parallel_size),
      fmt::format("set train.global_batch_size to a multiple of {}, or train.micro_batch_size to a divisor",
                  per_step));
  check_rampup(context, per_step);
  context.check(!train.step_batch_size_schedule || !train.rampup_batch_size,
                "train.step_batch_size_schedule and train.rampup_batch_size both say how the batch grows",
                "set one of them to null");
  context.check(!train.step_batch_size_schedule || !train.decrease_batch_size_if_needed,
                "train.decrease_batch_size_if_needed=True does not go with train.step_batch_size_schedule",
                "set one of them to false or null");
  finalize_evaluation(context);

  const int64_t micro_batches = *train.global_batch_size / std::max<int64_t>(per_step, 1);
  const ModelConfig& model = config.model;
  if (model.pipeline_model_parallel_size > 1 && model.virtual_pipeline_model_parallel_size.value_or(1) > 1) {
    const int64_t group = model.microbatch_group_size_per_vp_stage.value_or(model.pipeline_model_parallel_size);
    const int64_t rest = group > 0 ? micro_batches % group : 0;
    context.check(group >= model.pipeline_model_parallel_size && group <= micro_batches &&
                      (rest == 0 || rest >= model.pipeline_model_parallel_size),
                  fmt::format("an interleaved pipeline takes {} micro batches a step in groups of {} "
                              "(model.microbatch_group_size_per_vp_stage); a group and the last one need at least "
                              "model.pipeline_model_parallel_size={}",
                              micro_batches, group, model.pipeline_model_parallel_size),
                  "raise train.global_batch_size, or set the group to a divisor of the number of micro batches");
  }
}

}  // namespace viaduct::config::detail
