// Expert capacity: how many tokens an expert takes, and which are left out.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "viaduct/config/model_config.h"
#include "viaduct/nn/router.h"

namespace viaduct::nn {

/// Which tokens stay when more chose an expert than it takes.
enum class DropPolicy {
  kProbs,     // those to whom it adds most
  kPosition,  // any, as topk over equal numbers finds them: upstream's
};

/// The limit that a configuration sets.
struct ExpertCapacity {
  double factor = 1.0;  // of an even share: tokens * top_k / experts
  DropPolicy policy = DropPolicy::kProbs;
  bool padded = false;  // every expert gets as many rows as it takes, filled up with zeros

  /// As model.moe_expert_capacity_factor, moe_token_drop_policy and moe_pad_expert_input_to_capacity say; a factor
  /// that is absent or negative is none. UserError for a policy that is none, and padding without a factor.
  static std::optional<ExpertCapacity> of(const config::ModelConfig& config);
};

/// What is left of `routing` when each expert takes ceil(tokens * top_k / num_experts * factor) tokens.
Routing limit_to_capacity(const Routing& routing, int64_t num_experts, const ExpertCapacity& capacity);

}  // namespace viaduct::nn
