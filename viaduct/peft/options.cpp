#include "viaduct/peft/options.h"

#include <type_traits>

#include "viaduct/core/error.h"

namespace viaduct::peft {

InitMethod parse_init_method(std::string_view name, std::string_view key) {
  if (name == "xavier") return InitMethod::kXavier;
  if (name == "normal") return InitMethod::kNormal;
  if (name == "kaiming") return InitMethod::kKaiming;
  VIADUCT_USER_CHECK(name == "zero", "{} is \"{}\"; it must be xavier, normal, kaiming or zero", key, name);
  return InitMethod::kZero;
}

namespace {

// The fields that LoRA and canonical LoRA have in common.
template <class Section>
PeftOptions read_section(const Section& section, adapters::AdapterKind kind) {
  PeftOptions options;
  options.kind = kind;
  options.target_modules = section.target_modules;
  options.exclude_modules = section.exclude_modules;
  options.dim = section.dim;
  options.alpha = static_cast<double>(section.alpha);
  options.dropout = section.dropout;
  options.dropout_position = section.dropout_position == "post" ? DropoutPosition::kPost : DropoutPosition::kPre;
  options.lora_A_init_method = parse_init_method(section.lora_A_init_method, "peft.lora_A_init_method");
  options.lora_B_init_method = parse_init_method(section.lora_B_init_method, "peft.lora_B_init_method");
  options.normalize_moe_lora = section.normalize_moe_lora;
  options.share_expert_adapters = section.share_expert_adapters;
  return options;
}

}  // namespace

PeftOptions read_options(const config::PeftConfig& section) {
  if (const auto* lora = std::get_if<config::LoRA>(&section))
    return read_section(*lora, adapters::AdapterKind::kLora);
  if (const auto* canonical = std::get_if<config::CanonicalLoRA>(&section))
    return read_section(*canonical, adapters::AdapterKind::kCanonicalLora);
  throw UserError("peft._target_ is neither LoRA nor CanonicalLoRA: training other adapters is not built yet");
}

}  // namespace viaduct::peft
