// The learning rate's and weight decay's schedule: what excludes what, and the steps (in samples) that follow.
#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

/// train_iters, train_samples, num_epochs: exactly one. False when the schedule cannot follow.
bool finalize_duration(FinalizeContext& context) {
  TrainingConfig& train = context.config.train;
  const std::string all =
      fmt::format("{}, {}, {}", shown("train.train_iters", train.train_iters),
                  shown("train.train_samples", train.train_samples), shown("train.num_epochs", train.num_epochs));
  // Iterations that were derived from samples by an earlier finalize are no second duration.
  const bool derived = train.train_samples && train.train_iters && train.global_batch_size &&
                       *train.global_batch_size > 0 &&
                       *train.train_iters == *train.train_samples / *train.global_batch_size &&
                       context.config.scheduler.wd_incr_steps == train.train_samples;
  const int given =
      (train.train_iters && !derived ? 1 : 0) + (train.train_samples ? 1 : 0) + (train.num_epochs ? 1 : 0);
  if (given != 1) {
    context.violations.add(
        fmt::format("{}: {} how long to train", all, given == 0 ? "nothing says" : "more than one says"),
        given == 0 ? "set train.train_iters, e.g. train.train_iters=100" : "set all but one to null");
    return false;
  }
  if (train.num_epochs) {
    context.check(*train.num_epochs > 0, fmt::format("{} is not positive", all), "set train.num_epochs above 0");
    context.check(!train.rampup_batch_size, "train.num_epochs does not go with train.rampup_batch_size",
                  "set train.rampup_batch_size=null");
    return false;  // the dataset's length decides, once it is known
  }
  if (train.train_samples) {
    const bool positive = *train.train_samples > 0;
    context.check(positive, fmt::format("{} is not positive", all), "set train.train_samples to 1 or more");
    context.check(!train.rampup_batch_size, "train.train_samples does not go with train.rampup_batch_size",
                  "set train.rampup_batch_size=null, or give train.train_iters instead");
    if (!positive || !train.global_batch_size || *train.global_batch_size < 1) return false;
    context.change("train.train_iters", train.train_iters, OptInt(*train.train_samples / *train.global_batch_size),
                   "train_samples / global_batch_size");
    return true;
  }
  context.check(*train.train_iters > 0 || context.config.validation.skip_train,
                fmt::format("{} is not positive", all), "set train.train_iters to 1 or more");
  return *train.train_iters > 0 && train.global_batch_size && *train.global_batch_size > 0;
}

void check_schedule(FinalizeContext& context) {
  const SchedulerConfig& s = context.config.scheduler;
  context.check(!s.max_steps || *s.max_steps > 0,
                fmt::format("{} is not positive", shown("scheduler.max_steps", s.max_steps)),
                "set it to 1 or more, or to null");
  if (s.start_weight_decay) {
    context.check(*s.start_weight_decay >= 0 && s.end_weight_decay && *s.end_weight_decay >= *s.start_weight_decay,
                  fmt::format("{}, {}: the weight decay begins at 0 or more and does not fall",
                              shown("scheduler.start_weight_decay", s.start_weight_decay),
                              shown("scheduler.end_weight_decay", s.end_weight_decay)),
                  "set scheduler.end_weight_decay to at least scheduler.start_weight_decay, or both to null");
  }
  context.check(!(s.override_opt_param_scheduler && s.use_checkpoint_opt_param_scheduler),
                "scheduler.override_opt_param_scheduler=True and scheduler.use_checkpoint_opt_param_scheduler=True "
                "contradict each other",
                "set one of them to false");
  const bool samples = context.config.train.train_samples.has_value();
  const auto refuse = [&](bool given, std::string_view name, std::string_view instead) {
    context.check(
        !given,
        fmt::format("scheduler.{} is set, but training counts {}", name, samples ? "samples" : "iterations"),
        fmt::format("use scheduler.{} instead", instead));
  };
  // lr_decay_iters and the like are set by finalize for a count in iterations.
  if (samples) {
    refuse(s.max_steps.has_value(), "max_steps", "lr_decay_samples");
    refuse(s.lr_decay_iters.has_value(), "lr_decay_iters", "lr_decay_samples");
    refuse(s.lr_warmup_iters != 0, "lr_warmup_iters", "lr_warmup_samples");
    refuse(s.lr_wsd_decay_iters.has_value(), "lr_wsd_decay_iters", "lr_wsd_decay_samples");
  } else {
    refuse(s.lr_decay_samples.has_value(), "lr_decay_samples", "lr_decay_iters");
    refuse(s.lr_warmup_samples != 0, "lr_warmup_samples", "lr_warmup_iters");
    refuse(s.lr_wsd_decay_samples.has_value(), "lr_wsd_decay_samples", "lr_wsd_decay_iters");
  }
  if (s.lr_warmup_fraction) {
    context.check(s.lr_warmup_iters == 0 && s.lr_warmup_samples == 0,
                  fmt::format("{} and {}, {}: the warmup's length is said twice",
                              shown("scheduler.lr_warmup_fraction", s.lr_warmup_fraction),
                              shown("scheduler.lr_warmup_iters", s.lr_warmup_iters),
                              shown("scheduler.lr_warmup_samples", s.lr_warmup_samples)),
                  "set scheduler.lr_warmup_fraction=null or the others to 0");
    context.check(*s.lr_warmup_fraction >= 0 && *s.lr_warmup_fraction < 1,
                  fmt::format("{} is not in [0, 1)", shown("scheduler.lr_warmup_fraction", s.lr_warmup_fraction)),
                  "set it below 1");
  }
  context.check(
      s.lr_warmup_iters >= 0 && s.lr_warmup_samples >= 0,
      fmt::format("{}, {}: a warmup is not negative", shown("scheduler.lr_warmup_iters", s.lr_warmup_iters),
                  shown("scheduler.lr_warmup_samples", s.lr_warmup_samples)),
      "set it to 0 or more");
}

void set_steps_by_samples(SchedulerConfig& s, int64_t samples) {
  if (!s.lr_decay_samples) s.lr_decay_samples = samples;
  s.lr_decay_steps = s.lr_decay_samples;
  s.wd_incr_steps = samples;
  if (s.lr_wsd_decay_samples) s.wsd_decay_steps = s.lr_wsd_decay_samples;
}

void set_steps_by_iterations(SchedulerConfig& s, int64_t iterations, int64_t batch) {
  if (s.max_steps) s.lr_decay_iters = s.max_steps;
  if (!s.lr_decay_iters) s.lr_decay_iters = iterations;
  if (!s.lr_wsd_decay_iters && s.lr_decay_style == "WSD") s.lr_wsd_decay_iters = s.lr_decay_iters;
  s.lr_decay_steps = *s.lr_decay_iters * batch;
  s.wd_incr_steps = s.max_steps.value_or(iterations) * batch;
  if (s.lr_wsd_decay_iters) s.wsd_decay_steps = *s.lr_wsd_decay_iters * batch;
}

void finalize_warmup(FinalizeContext& context, int64_t counted) {
  SchedulerConfig& s = context.config.scheduler;
  const int64_t decay = *s.lr_decay_steps;
  if (decay <= 0) {
    context.violations.add(fmt::format("{} is not positive", shown("scheduler.lr_decay_steps", s.lr_decay_steps)),
                           "train longer, or raise scheduler.lr_decay_iters (lr_decay_samples)");
    return;
  }
  s.lr_warmup_steps =
      s.lr_warmup_fraction ? Number(*s.lr_warmup_fraction * static_cast<double>(decay)) : Number(counted);
  if (*s.lr_warmup_steps < static_cast<double>(decay)) return;
  context.report.warnings.push_back(
      fmt::format("the warmup ({} samples) is as long as the decay ({}); it was cut to {}. Lower "
                  "scheduler.lr_warmup_iters (lr_warmup_samples) for short runs",
                  counted, decay, decay - 1));
  s.lr_warmup_steps = Number(decay - 1);
}

}  // namespace

void finalize_schedule(FinalizeContext& context) {
  check_schedule(context);
  if (!finalize_duration(context)) return;
  const TrainingConfig& train = context.config.train;
  SchedulerConfig& s = context.config.scheduler;
  if (train.train_samples) {
    set_steps_by_samples(s, *train.train_samples);
    finalize_warmup(context, s.lr_warmup_samples);
    return;
  }
  if (s.max_steps && *s.max_steps < *train.train_iters) {
    context.violations.add(fmt::format("{} is less than {}", shown("scheduler.max_steps", s.max_steps),
                                       shown("train.train_iters", train.train_iters)),
                           "set scheduler.max_steps to the steps of the whole run, or to null");
    return;
  }
  set_steps_by_iterations(s, *train.train_iters, *train.global_batch_size);
  finalize_warmup(context, s.lr_warmup_iters * *train.global_batch_size);
}

}  // namespace viaduct::config::detail
