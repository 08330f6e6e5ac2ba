// UpdateRule: how parameters follow from their gradients and what was remembered of earlier ones.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace viaduct::optim {

/// Settings by upstream's names (OptimizerConfig).
struct UpdateSettings {
  std::string optimizer = "adam";  // adam, sgd
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_eps = 1e-8;
  double sgd_momentum = 0.9;
  bool decoupled_weight_decay = true;  // AdamW; false: decay is added to the gradient
};

/// Lists of tensors that are updated alike, each of one dimension: float32 parameters and gradients, and for every
/// name of UpdateRule::state_names float32 tensors.
struct UpdateLists {
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> gradients;
  std::vector<std::vector<at::Tensor>> state;
};

/// With what lists are updated.
struct UpdateRates {
  int64_t step;  // 1 for the first update
  double lr;
  double weight_decay;
  double gradient_divisor = 1;  // gradients count as what they are over this
};

/// Updates tensors in place; gradients are undefined then.
class UpdateRule {
 public:
  virtual ~UpdateRule() = default;
  /// What is remembered of each element, by the names of checkpoints: exp_avg, exp_avg_sq; momentum_buffer.
  virtual const std::vector<std::string>& state_names() const = 0;
  /// Kingma and Ba 2015 with Loshchilov and Hutter's decay; as torch.optim.AdamW and SGD compute it.
  virtual void update(UpdateLists& lists, const UpdateRates& rates) const = 0;
};

/// UserError for an optimizer that is none.
std::unique_ptr<UpdateRule> make_update_rule(const UpdateSettings& settings);

}  // namespace viaduct::optim
