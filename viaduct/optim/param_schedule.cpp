#include "viaduct/optim/param_schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "viaduct/core/error.h"

namespace viaduct::optim {

// Sums and products are those of Python's floats, each rounded once (the build sets -ffp-contract=off).

double ParamSchedule::lr(const ParamGroupOverride& group) const {
  const ParamScheduleOptions& o = options_;
  const double max_lr = group.max_lr.value_or(o.max_lr), min_lr = group.min_lr.value_or(o.min_lr);
  const double warmup = o.lr_warmup_steps, steps = static_cast<double>(num_steps_);
  const double decay_steps = static_cast<double>(o.lr_decay_steps);
  if (warmup > 0 && steps <= warmup) return o.init_lr + (max_lr - o.init_lr) * steps / warmup;
  if (o.lr_decay_style == LrDecayStyle::kConstant) return max_lr;
  if (num_steps_ > o.lr_decay_steps) return min_lr;
  if (o.lr_decay_style == LrDecayStyle::kInverseSquareRoot) {
    const double lr = max_lr * std::pow(std::max(warmup, 1.0), 0.5) / std::pow(std::max(steps, 1.0), 0.5);
    return std::max(min_lr, lr);
  }
  const double ratio = (steps - warmup) / (decay_steps - warmup);
  const auto cosine = [](double x) { return 0.5 * (std::cos(std::numbers::pi * x) + 1.0); };
  double coefficient = 1.0;
  switch (o.lr_decay_style) {
    case LrDecayStyle::kLinear: coefficient = 1.0 - ratio; break;
    case LrDecayStyle::kCosine: coefficient = cosine(ratio); break;
    case LrDecayStyle::kWsd: {
      const int64_t begin = o.lr_decay_steps - *o.wsd_decay_steps;
      if (num_steps_ <= begin) break;
      const double part = static_cast<double>(num_steps_ - begin) / static_cast<double>(*o.wsd_decay_steps);
      switch (*o.lr_wsd_decay_style) {
        case WsdDecayStyle::kLinear: coefficient = 1.0 - part; break;
        case WsdDecayStyle::kCosine: coefficient = cosine(part); break;
        case WsdDecayStyle::kExponential: coefficient = 2.0 * std::pow(0.5, part) - 1.0; break;
        case WsdDecayStyle::kMinusSqrt: coefficient = 1.0 - std::sqrt(part); break;
      }
      break;
    }
    default: VIADUCT_CHECK(false, "a decay style without a rule");
  }
  return min_lr + coefficient * (max_lr - min_lr);
}

double ParamSchedule::weight_decay(const ParamGroupOverride& group) const {
  const ParamScheduleOptions& o = options_;
  const double start = group.start_wd.value_or(o.start_wd), end = group.end_wd.value_or(o.end_wd);
  if (num_steps_ > o.wd_incr_steps) return end * group.wd_mult;
  if (o.wd_incr_style == WdIncrStyle::kConstant) {
    VIADUCT_USER_CHECK(
        start == end,
        "weight decay is constant (weight_decay_incr_style), but a group of parameters begins with {} "
        "and ends with {}: give it equal values",
        start, end);
    return end * group.wd_mult;
  }
  const double ratio = static_cast<double>(num_steps_) / static_cast<double>(o.wd_incr_steps);
  const double coefficient =
      o.wd_incr_style == WdIncrStyle::kLinear ? ratio : 0.5 * (std::cos(std::numbers::pi * (1 - ratio)) + 1.0);
  return (start + coefficient * (end - start)) * group.wd_mult;
}

ParamSchedule::ParamSchedule(const ParamScheduleOptions& options) : options_(options) {
  const ParamScheduleOptions& o = options_;
  VIADUCT_USER_CHECK(o.min_lr >= 0.0, "optimizer.min_lr is {}; it must be 0 or more", o.min_lr);
  VIADUCT_USER_CHECK_LE(o.min_lr, o.max_lr, "optimizer.min_lr is above optimizer.lr");
  VIADUCT_USER_CHECK_LE(o.init_lr, o.max_lr, "scheduler.lr_warmup_init is above optimizer.lr");
  VIADUCT_USER_CHECK(o.lr_decay_steps > 0,
                     "the learning rate decays over {} samples; there must be some: set "
                     "train.train_iters or scheduler.lr_decay_iters",
                     o.lr_decay_steps);
  VIADUCT_USER_CHECK(o.lr_warmup_steps < static_cast<double>(o.lr_decay_steps),
                     "the warm-up of {} samples is as long as the decay, which ends at {}: lower "
                     "scheduler.lr_warmup_iters or raise scheduler.lr_decay_iters",
                     static_cast<double>(o.lr_warmup_steps), o.lr_decay_steps);
  if (o.lr_decay_style == LrDecayStyle::kWsd) {
    VIADUCT_USER_CHECK(o.wsd_decay_steps && *o.wsd_decay_steps > 0,
                       "scheduler.lr_decay_style WSD needs scheduler.lr_wsd_decay_iters of 1 or more");
    VIADUCT_USER_CHECK(o.lr_wsd_decay_style.has_value(),
                       "scheduler.lr_decay_style WSD needs scheduler.lr_wsd_decay_style");
  }
  VIADUCT_USER_CHECK(o.start_wd >= 0.0, "scheduler.start_weight_decay is {}; it must be 0 or more", o.start_wd);
  VIADUCT_USER_CHECK_LE(o.start_wd, o.end_wd, "scheduler.start_weight_decay is above scheduler.end_weight_decay");
  VIADUCT_USER_CHECK(o.wd_incr_style != WdIncrStyle::kConstant || o.start_wd == o.end_wd,
                     "scheduler.weight_decay_incr_style is constant, but start_weight_decay is {} and "
                     "end_weight_decay {}: make them equal, or the style linear or cosine",
                     o.start_wd, o.end_wd);
  VIADUCT_USER_CHECK(o.wd_incr_style == WdIncrStyle::kConstant || o.wd_incr_steps > 0,
                     "weight decay grows over {} samples; there must be some: set train.train_iters",
                     o.wd_incr_steps);
  VIADUCT_USER_CHECK(
      !(o.override_opt_param_scheduler && o.use_checkpoint_opt_param_scheduler),
      "scheduler.override_opt_param_scheduler and scheduler.use_checkpoint_opt_param_scheduler are both "
      "true: the first keeps this configuration's values, the second takes the checkpoint's; set one");
}

namespace {

template <class Style, size_t N>
using Names = std::array<std::pair<std::string_view, Style>, N>;

constexpr Names<LrDecayStyle, 5> kLrDecayStyles = {{{"constant", LrDecayStyle::kConstant},
                                                    {"linear", LrDecayStyle::kLinear},
                                                    {"cosine", LrDecayStyle::kCosine},
                                                    {"inverse-square-root", LrDecayStyle::kInverseSquareRoot},
                                                    {"WSD", LrDecayStyle::kWsd}}};
constexpr Names<WsdDecayStyle, 4> kWsdDecayStyles = {{{"exponential", WsdDecayStyle::kExponential},
                                                      {"linear", WsdDecayStyle::kLinear},
                                                      {"cosine", WsdDecayStyle::kCosine},
                                                      {"minus_sqrt", WsdDecayStyle::kMinusSqrt}}};
constexpr Names<WdIncrStyle, 3> kWdIncrStyles = {
    {{"constant", WdIncrStyle::kConstant}, {"linear", WdIncrStyle::kLinear}, {"cosine", WdIncrStyle::kCosine}}};

template <class Style, size_t N>
Style parse(const Names<Style, N>& names, std::string_view name, std::string_view option) {
  std::string all;
  for (const auto& [known, style] : names) {
    if (known == name) return style;
    all += (all.empty() ? "" : ", ") + std::string(known);
  }
  throw UserError(fmt::format("{} is '{}'; it must be one of {}", option, name, all));
}

template <class Style, size_t N>
std::string_view name_of(const Names<Style, N>& names, Style style) {
  for (const auto& [name, known] : names)
    if (known == style) return name;
  VIADUCT_CHECK(false, "a style without a name");
  return {};
}

}  // namespace

LrDecayStyle parse_lr_decay_style(std::string_view name) {
  return parse(kLrDecayStyles, name, "scheduler.lr_decay_style");
}
WsdDecayStyle parse_wsd_decay_style(std::string_view name) {
  return parse(kWsdDecayStyles, name, "scheduler.lr_wsd_decay_style");
}
WdIncrStyle parse_wd_incr_style(std::string_view name) {
  return parse(kWdIncrStyles, name, "scheduler.weight_decay_incr_style");
}
std::string_view to_string(LrDecayStyle style) { return name_of(kLrDecayStyles, style); }
std::string_view to_string(WdIncrStyle style) { return name_of(kWdIncrStyles, style); }

}  // namespace viaduct::optim
