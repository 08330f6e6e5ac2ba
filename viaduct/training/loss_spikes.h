// LossSpikes: which losses are far above what was seen before (upstream's check_for_spiky_loss).
#pragma once

#include <cstdint>

namespace viaduct::training {

/// The largest of the first hundred losses is what later ones are measured by, as in upstream's rerun state
/// machine.
class LossSpikes {
 public:
  /// A spike is this many times the largest (rerun_state_machine.spiky_loss_factor).
  explicit LossSpikes(double factor) : factor_(factor) {}
  /// Looks at the next loss: is it a spike? One that is not finite is none, and does not count.
  bool is_spike(double loss);
  /// The largest so far.
  double largest() const { return largest_; }

 private:
  double factor_, largest_ = 0;
  int64_t seen_ = 0;
};

}  // namespace viaduct::training
