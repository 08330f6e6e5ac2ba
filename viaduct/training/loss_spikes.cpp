#include "viaduct/training/loss_spikes.h"

#include <algorithm>
#include <cmath>

namespace viaduct::training {

bool LossSpikes::is_spike(double loss) {
  constexpr int64_t kMeasure = 100;
  const double size = std::abs(loss);
  if (!std::isfinite(size)) return false;
  if (seen_ >= kMeasure) return size >= largest_ * factor_;
  ++seen_;
  largest_ = std::max(largest_, size);
  return false;
}

}  // namespace viaduct::training
