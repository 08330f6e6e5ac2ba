#include "viaduct/nn/expert_capacity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "viaduct/core/error.h"

namespace viaduct::nn {

std::optional<ExpertCapacity> ExpertCapacity::of(const config::ModelConfig& config) {
  const std::string& policy = config.moe_token_drop_policy;
  VIADUCT_USER_CHECK(policy == "probs" || policy == "position",
                     "model.moe_token_drop_policy is \"{}\"; there are probs and position", policy);
  const double factor =
      config.moe_expert_capacity_factor ? static_cast<double>(*config.moe_expert_capacity_factor) : -1;
  VIADUCT_USER_CHECK(factor >= 0 || !config.moe_pad_expert_input_to_capacity,
                     "model.moe_pad_expert_input_to_capacity needs a model.moe_expert_capacity_factor");
  if (factor < 0) return std::nullopt;
  return ExpertCapacity{factor, policy == "probs" ? DropPolicy::kProbs : DropPolicy::kPosition,
                        config.moe_pad_expert_input_to_capacity};
}

Routing limit_to_capacity(const Routing& routing, int64_t num_experts, const ExpertCapacity& capacity) {
  const at::Tensor &experts = routing.experts_tk, weights = routing.weights_tk.detach();
  const int64_t tokens = experts.size(0), choices = tokens * experts.size(1);
  const auto taken = static_cast<int64_t>(
      std::ceil(static_cast<double>(choices) / static_cast<double>(num_experts) * capacity.factor));
  Routing limited = routing;
  if (capacity.padded) limited.padded_rows = std::min(taken, tokens);
  if (taken > tokens) return limited;

  at::Tensor rank_te = at::zeros({tokens, num_experts}, weights.options());
  rank_te = capacity.policy == DropPolicy::kProbs ? rank_te.scatter(1, experts, weights)
                                                  : rank_te.to(at::kInt).scatter(1, experts, 1);
  const at::Tensor best_ce = std::get<1>(rank_te.topk(taken, 0, /*largest=*/true, /*sorted=*/false));
  const at::Tensor open_te = at::zeros_like(rank_te, rank_te.options().dtype(at::kBool)).scatter(0, best_ce, 1);
  limited.kept_tk = open_te.gather(1, experts);
  limited.weights_tk = routing.weights_tk * limited.kept_tk;
  return limited;
}

}  // namespace viaduct::nn
