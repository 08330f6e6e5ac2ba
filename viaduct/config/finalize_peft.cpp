// Adapters: what they adapt.
#include "viaduct/config/finalize_steps.h"
#include "viaduct/config/peft.h"

namespace viaduct::config {
namespace {

struct Part {
  std::string_view name;
  std::string_view whole;
};
constexpr Part kParts[] = {{"linear_q", "linear_qkv"},
                           {"linear_k", "linear_qkv"},
                           {"linear_v", "linear_qkv"},
                           {"linear_fc1_up", "linear_fc1"},
                           {"linear_fc1_gate", "linear_fc1"}};

}  // namespace

Yaml canonical_lora_mapping(const Strings& target_modules) {
  Yaml mapping = Yaml::mapping();
  for (const std::string& target : target_modules) {
    std::string module = target, part = target;
    for (const Part& known : kParts) {
      if (!target.ends_with(known.name)) continue;
      module = target.substr(0, target.size() - known.name.size()) + std::string(known.whole);
      part = known.name;
      break;
    }
    Yaml* parts = mapping.find(module);
    if (!parts) parts = &mapping.set(module, Yaml::set_of());
    bool there = false;
    for (const Yaml::Member& member : parts->members()) there = there || member.first == Yaml(part);
    if (!there) parts->members().emplace_back(Yaml(part), Yaml());
  }
  return mapping;
}

namespace detail {
namespace {

void finalize_canonical(FinalizeContext& context, CanonicalLoRA& peft) {
  for (const std::string& target : peft.target_modules)
    for (const std::string_view whole : {"linear_qkv", "linear_fc1"})
      context.check(!target.ends_with(whole),
                    fmt::format("peft.target_modules has {}; CanonicalLoRA adapts its parts", target),
                    whole == "linear_qkv" ? "name linear_q, linear_k, linear_v, or set peft._target_=LoRA"
                                          : "name linear_fc1_up, linear_fc1_gate, or set peft._target_=LoRA");
  peft.canonical_mapping = canonical_lora_mapping(peft.target_modules);
}

}  // namespace

void finalize_peft(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  if (!config.peft) return;
  context.check(config.checkpoint.pretrained_checkpoint.has_value(), "peft without the weights that it adapts",
                "set checkpoint.pretrained_checkpoint to the base model");
  std::visit(
      [&](auto& peft) {
        using Class = std::decay_t<decltype(peft)>;
        if constexpr (Section<Class>) {
          context.check(peft.dim > 0, fmt::format("{} is not positive", shown("peft.dim", peft.dim)),
                        "set it to 1 or more");
          context.check(peft.dropout >= 0 && peft.dropout < 1,
                        fmt::format("{} is not in [0, 1)", shown("peft.dropout", peft.dropout)), "set it below 1");
          context.check(peft.target_modules.empty() != peft.exclude_modules.empty(),
                        "peft.target_modules and peft.exclude_modules: exactly one of them says what is adapted",
                        peft.target_modules.empty() ? "name modules in peft.target_modules, e.g. [linear_qkv]"
                                                    : "set peft.exclude_modules=[], or peft.target_modules=[]");
        }
        if constexpr (std::is_same_v<Class, CanonicalLoRA>) finalize_canonical(context, peft);
      },
      *config.peft);
}

}  // namespace detail
}  // namespace viaduct::config
