// PeftOptions: what the section peft says, for live modules.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/adapters/adapter_spec.h"
#include "viaduct/config/config_container.h"

namespace viaduct::peft {

/// How the elements of a matrix begin.
enum class InitMethod {
  kXavier,   // normal, deviation sqrt(2 / (inputs + outputs)) (Glorot and Bengio 2010)
  kNormal,   // normal, deviation 0.2
  kKaiming,  // uniform within 1 / sqrt(inputs) (He et al. 2015, with the slope sqrt(5))
  kZero,
};
/// "xavier", "normal", "kaiming" or "zero"; UserError that begins with `key` for another name.
InitMethod parse_init_method(std::string_view name, std::string_view key);

/// Where dropout comes: on what goes into the adapter, or on what comes out of it.
enum class DropoutPosition { kPre, kPost };

/// Upstream's settings by upstream's names.
struct PeftOptions {
  adapters::AdapterKind kind = adapters::AdapterKind::kLora;
  std::vector<std::string> target_modules;   // last words or paths of modules, "*" for anything
  std::vector<std::string> exclude_modules;  // all linear layers but these; target_modules is empty then
  int64_t dim = 32;
  double alpha = 32;
  double dropout = 0;
  DropoutPosition dropout_position = DropoutPosition::kPre;
  InitMethod lora_A_init_method = InitMethod::kXavier;
  InitMethod lora_B_init_method = InitMethod::kZero;
  bool normalize_moe_lora = false;    // experts have the rank dim / moe_router_topk
  bool share_expert_adapters = true;  // all experts of a layer have one adapter together

  /// What the product of both matrices is multiplied by: alpha / rank.
  double scaling(int64_t rank) const { return alpha / static_cast<double>(rank); }
};

/// UserError for a class of adapters that is not built (check_mechanisms tells before) and for names that are none.
PeftOptions read_options(const config::PeftConfig& section);

}  // namespace viaduct::peft
