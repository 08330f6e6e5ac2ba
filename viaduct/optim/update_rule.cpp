#include "viaduct/optim/update_rule.h"

#include <ATen/ATen.h>

#include <optional>

#include "viaduct/core/error.h"

namespace viaduct::optim {

namespace {

// For torch's fused kernels, which divide while they read: no pass over the gradients of its own.
std::optional<at::Tensor> divisor(const UpdateLists& lists, const UpdateRates& rates) {
  if (rates.gradient_divisor == 1) return std::nullopt;
  return at::full({}, rates.gradient_divisor, lists.gradients[0].options().dtype(at::kFloat));
}

class Adam : public UpdateRule {
 public:
  explicit Adam(const UpdateSettings& settings) : settings_(settings) {}

  const std::vector<std::string>& state_names() const override {
    static const std::vector<std::string> names{"exp_avg", "exp_avg_sq"};
    return names;
  }

  void update(UpdateLists& lists, const UpdateRates& rates) const override {
    const at::Tensor count =
        at::full({}, static_cast<double>(rates.step), lists.parameters[0].options().dtype(at::kFloat));
    const std::vector<at::Tensor> counts(lists.parameters.size(), count);
    const auto fused =
        settings_.decoupled_weight_decay ? &at::_ops::_fused_adamw_::call : &at::_ops::_fused_adam_::call;
    fused(lists.parameters, lists.gradients, lists.state[0], lists.state[1], {}, counts, rates.lr,
          settings_.adam_beta1, settings_.adam_beta2, rates.weight_decay, settings_.adam_eps, /*amsgrad=*/false,
          /*maximize=*/false, divisor(lists, rates), {});
  }

 private:
  UpdateSettings settings_;
};

class Sgd : public UpdateRule {
 public:
  explicit Sgd(double momentum) : momentum_(momentum) {}

  const std::vector<std::string>& state_names() const override {
    static const std::vector<std::string> none, names{"momentum_buffer"};
    return momentum_ == 0 ? none : names;
  }

  void update(UpdateLists& lists, const UpdateRates& rates) const override {
    at::_fused_sgd_(lists.parameters, lists.gradients, momentum_ == 0 ? at::TensorList() : lists.state[0],
                    rates.weight_decay, momentum_, rates.lr, /*dampening=*/0, /*nesterov=*/false,
                    /*maximize=*/false, /*is_first_step=*/rates.step == 1, divisor(lists, rates));
  }

 private:
  double momentum_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_update_rule(const UpdateSettings& settings) {
  if (settings.optimizer == "adam") return std::make_unique<Adam>(settings);
  if (settings.optimizer == "sgd") return std::make_unique<Sgd>(settings.sgd_momentum);
  throw UserError(fmt::format("optimizer.optimizer is \"{}\"; this program has adam and sgd", settings.optimizer));
}

}  // namespace viaduct::optim
