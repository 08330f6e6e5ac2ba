// LossScaler: what the loss of float16 training is multiplied by, so that small gradients do not vanish.
#pragma once

#include <cstdint>
#include <optional>

namespace viaduct::optim {

/// Settings by upstream's names (OptimizerConfig).
struct LossScaleSettings {
  std::optional<double> loss_scale;  // constant; none: it follows what overflows
  double initial_loss_scale = 4294967296.0;
  double min_loss_scale = 1.0;
  int64_t loss_scale_window = 1000;
  int64_t hysteresis = 2;
};

/// Megatron's DynamicGradScaler: halves the scale after `hysteresis` updates with overflow, doubles it after
/// `loss_scale_window` without.
class LossScaler {
 public:
  /// State as checkpoints have it (grad_scaler).
  struct State {
    double scale;
    int64_t growth_tracker = 0;
    int64_t hysteresis_tracker;
  };

  /// UserError for scales that are not positive, or a minimum above the initial one.
  explicit LossScaler(const LossScaleSettings& settings);
  double scale() const { return state_.scale; }
  /// After an update: did a gradient overflow?
  void update(bool overflow);
  /// As a checkpoint has it, and put back.
  const State& state() const { return state_; }
  /// As state().
  void set_state(const State& state) { state_ = state; }

 private:
  LossScaleSettings settings_;
  State state_;
};

}  // namespace viaduct::optim
