// Learning rate and weight decay by the number of samples that were trained on, as megatron-core 0.19's
// OptimizerParamScheduler has them, to the bit. Arithmetic only: this part of optim/ needs no torch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "viaduct/config/python_values.h"
#include "viaduct/formats/pickle_value.h"

namespace viaduct::optim {

/// How the learning rate falls after the warm-up: "constant", "linear", "cosine", "inverse-square-root", "WSD".
enum class LrDecayStyle { kConstant, kLinear, kCosine, kInverseSquareRoot, kWsd };
/// How it falls in the last part of WSD: "exponential", "linear", "cosine", "minus_sqrt".
enum class WsdDecayStyle { kExponential, kLinear, kCosine, kMinusSqrt };
/// How weight decay grows: "constant", "linear", "cosine".
enum class WdIncrStyle { kConstant, kLinear, kCosine };

/// The style of that name; UserError that lists the names, for a name that is none.
LrDecayStyle parse_lr_decay_style(std::string_view name);
WsdDecayStyle parse_wsd_decay_style(std::string_view name);
WdIncrStyle parse_wd_incr_style(std::string_view name);
/// The name of a style, as configurations and checkpoints have it.
std::string_view to_string(LrDecayStyle style);
/// As above.
std::string_view to_string(WdIncrStyle style);

/// What a schedule is made of; upstream's names. All steps count samples: iterations times the global batch size.
struct ParamScheduleOptions {
  double init_lr = 0.0;  // where the warm-up begins (scheduler.lr_warmup_init)
  double max_lr = 0.0;   // optimizer.lr
  double min_lr = 0.0;
  config::Number lr_warmup_steps = 0;  // a float when it is a fraction of lr_decay_steps
  int64_t lr_decay_steps = 0;          // where the learning rate has reached min_lr
  LrDecayStyle lr_decay_style = LrDecayStyle::kLinear;
  std::optional<int64_t> wsd_decay_steps;  // the last part of WSD
  std::optional<WsdDecayStyle> lr_wsd_decay_style;
  double start_wd = 0.0;
  double end_wd = 0.0;
  int64_t wd_incr_steps = 0;
  WdIncrStyle wd_incr_style = WdIncrStyle::kConstant;
  bool use_checkpoint_opt_param_scheduler = true;  // what a checkpoint says counts
  bool override_opt_param_scheduler = false;       // what is said here counts
};

/// What a group of parameters has of its own.
struct ParamGroupOverride {
  std::optional<double> max_lr;
  std::optional<double> min_lr;
  std::optional<double> start_wd;
  std::optional<double> end_wd;
  double wd_mult = 1.0;  // 0 for biases and norms
};

/// Learning rate and weight decay of the next optimizer step.
class ParamSchedule {
 public:
  /// At 0 samples. UserError naming the option that is impossible or does not fit another.
  explicit ParamSchedule(const ParamScheduleOptions& options);

  /// So many samples more were trained on.
  void step(int64_t samples) { num_steps_ += samples; }
  /// Samples that were trained on.
  int64_t num_steps() const { return num_steps_; }
  /// What the schedule is made of now: after load(), partly what the checkpoint said.
  const ParamScheduleOptions& options() const { return options_; }

  /// The learning rate now.
  double lr(const ParamGroupOverride& group = {}) const;
  /// The weight decay now, times the group's factor.
  double weight_decay(const ParamGroupOverride& group = {}) const;

  /// opt_param_scheduler of a checkpoint: a dict with upstream's ten keys, in its order.
  formats::PickleValue state() const;
  /// Continues from such a dict, older names of keys included. Each value is the checkpoint's
  /// (use_checkpoint_opt_param_scheduler), or stays (override_opt_param_scheduler), or must be equal in both:
  /// otherwise a UserError that names the key, both values and the two options. `origin` names the checkpoint.
  /// Weight decay is that of the loaded values at once (upstream uses them from the second step on).
  void load(const formats::PickleValue& state, std::string_view origin);

 private:
  ParamScheduleOptions options_;
  int64_t num_steps_ = 0;
};

}  // namespace viaduct::optim
