#include "viaduct/optim/loss_scaler.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::optim {

LossScaler::LossScaler(const LossScaleSettings& settings)
    : settings_(settings),
      state_{settings.loss_scale.value_or(settings.initial_loss_scale), 0, settings.hysteresis} {
  VIADUCT_USER_CHECK(state_.scale > 0, "the loss scale is {}; it must be positive", state_.scale);
  if (settings.loss_scale) return;
  VIADUCT_USER_CHECK(settings.min_loss_scale > 0 && settings.min_loss_scale <= settings.initial_loss_scale,
                     "min_loss_scale is {}; it must be positive and at most initial_loss_scale, {}",
                     settings.min_loss_scale, settings.initial_loss_scale);
  VIADUCT_USER_CHECK(settings.loss_scale_window > 0 && settings.hysteresis > 0,
                     "loss_scale_window is {} and hysteresis {}; both must be positive", settings.loss_scale_window,
                     settings.hysteresis);
}

void LossScaler::update(bool overflow) {
  constexpr double kGrowth = 2.0, kBackoff = 0.5;
  if (settings_.loss_scale) return;
  if (overflow) {
    state_.growth_tracker = 0;
    if (--state_.hysteresis_tracker <= 0)
      state_.scale = std::max(state_.scale * kBackoff, settings_.min_loss_scale);
    return;
  }
  if (++state_.growth_tracker < settings_.loss_scale_window) return;
  state_.growth_tracker = 0;
  state_.hysteresis_tracker = settings_.hysteresis;
  state_.scale *= kGrowth;
}

}  // namespace viaduct::optim
