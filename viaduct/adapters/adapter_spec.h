// AdapterSpec: what an adapter is beyond its matrices, as adapter_config.json (PEFT) and the `peft:` section of
// run_config.yaml (Megatron Bridge) say it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/config/yaml.h"
#include "viaduct/core/json.h"

namespace viaduct::adapters {

/// LoRA: one linear_in for all parts of a fused layer; canonical LoRA: one for each of q, k, v, gate and up; DoRA:
/// LoRA with a learnt norm of every row. PEFT knows the first and the last.
enum class AdapterKind { kLora, kCanonicalLora, kDora };

/// The settings that change numbers or names; the others are in peft_config.
struct AdapterSpec {
  AdapterKind kind = AdapterKind::kLora;
  int64_t rank = 0;  // r, dim: of layers without one of their own
  double alpha = 0;  // lora_alpha, alpha
  double dropout = 0;
  bool use_rslora = false;                             // scaling alpha / sqrt(r) instead of alpha / r
  bool normalize_experts = false;                      // normalize_moe_lora: experts have rank / moe_router_topk
  std::vector<std::pair<std::string, double>> alphas;  // alpha_pattern: modules with another alpha
  std::string base_model;                              // base_model_name_or_path, pretrained_checkpoint
  std::vector<std::string> target_parameters;          // of PEFT: tensors without a module of their own
  std::optional<Json> peft_config;                     // adapter_config.json, when it came from one

  /// What B A is multiplied by for a module (a PEFT name: "model.layers.0.self_attn.q_proj") of this rank.
  double scaling(std::string_view module, int64_t module_rank) const;
};

/// UserError naming `origin` and the key for a kind of adapter, or a setting, whose effect this program does not
/// know: another peft_type, biases, whole modules (modules_to_save), layers that are repeated ...
AdapterSpec read_peft_config(const Json& config, std::string_view origin);
/// `section`: of run_config.yaml. UserError for another kind than LoRA, VLMLoRA, CanonicalLoRA and DoRA.
AdapterSpec read_peft_section(const config::Yaml& section, std::string_view origin);

/// adapter_config.json with the keys and the order of Megatron Bridge's export. `modules`: last words of the
/// adapted modules' names; `ranks`: modules whose rank is not spec.rank.
Json peft_config_json(const AdapterSpec& spec, const std::vector<std::string>& modules,
                      const std::vector<std::pair<std::string, int64_t>>& ranks);
/// The `peft:` section as Megatron Bridge 0.6.2 writes it; there the scaling of every layer is alpha / rank.
/// `targets`: names of adapted modules or patterns of them; `parameters`: names of all parameters of the adapter.
config::Yaml peft_section(const AdapterSpec& spec, const std::vector<std::string>& targets,
                          const std::vector<std::string>& parameters, bool shared_experts);

/// Does a key of rank_pattern or alpha_pattern name this module? Plain names ("q_proj", "layers.0.mlp.up_proj") and
/// regular expressions of "." , ".*", ".+", "\d+", "[0-9]+", escaped signs, "^" and "$"; UserError for others.
bool pattern_matches(std::string_view pattern, std::string_view module);

}  // namespace viaduct::adapters
