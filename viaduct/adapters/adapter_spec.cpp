#include "viaduct/adapters/adapter_spec.h"

#include <fmt/ranges.h>

#include <array>
#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::adapters {

using config::Yaml;

double AdapterSpec::scaling(std::string_view module, int64_t module_rank) const {
  double own = alpha;
  for (const auto& [pattern, value] : alphas) {
    if (!pattern_matches(pattern, module)) continue;
    own = value;
    break;
  }
  const auto r = static_cast<double>(module_rank);
  return own / (use_rslora ? std::sqrt(r) : r);
}

namespace {

// One step of a pattern: what a character must be, and whether it may come again.
struct Step {
  enum class Kind { kLiteral, kAny, kDigit } kind = Kind::kLiteral;
  char literal = 0;
  int least = 1;
  bool repeats = false;

  bool takes(char c) const {
    if (kind == Kind::kAny) return c != '\n';
    return kind == Kind::kDigit ? c >= '0' && c <= '9' : c == literal;
  }
};

std::vector<Step> read_pattern(std::string_view pattern) {
  const auto refuse = [&] {
    throw UserError(fmt::format(
        "\"{}\" in rank_pattern or alpha_pattern is a regular expression beyond plain names, \".*\" and \"\\d+\"; "
        "write the modules' names out",
        pattern));
  };
  std::vector<Step> steps;
  for (size_t i = 0; i < pattern.size(); ++i) {
    Step step;
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 'd') {
        step.kind = Step::Kind::kDigit;
      } else if ((escaped >= 'a' && escaped <= 'z') || (escaped >= 'A' && escaped <= 'Z') ||
                 (escaped >= '0' && escaped <= '9')) {
        refuse();
      } else {
        step.literal = escaped;
      }
    } else if (c == '.') {
      step.kind = Step::Kind::kAny;
    } else if (pattern.substr(i, 5) == "[0-9]") {
      step.kind = Step::Kind::kDigit;
      i += 4;
    } else if (std::string_view("*+?()[]{}|^$\\").find(c) != std::string_view::npos) {
      refuse();
    } else {
      step.literal = c;
    }
    if (i + 1 < pattern.size() && (pattern[i + 1] == '*' || pattern[i + 1] == '+')) {
      step.repeats = true;
      step.least = pattern[++i] == '*' ? 0 : 1;
    }
    steps.push_back(step);
  }
  return steps;
}

// All of `text`, by the set of steps that can have been taken: time is steps times characters, whatever the
// pattern.
bool matches(const std::vector<Step>& steps, std::string_view text) {
  const size_t n = steps.size();
  std::vector<char> at(n + 1, 0), next;
  const auto close = [&](std::vector<char>& states) {
    for (size_t s = 0; s < n; ++s)
      if (states[s] && steps[s].least == 0) states[s + 1] = 1;
  };
  at[0] = 1;
  close(at);
  for (const char c : text) {
    next.assign(n + 1, 0);
    for (size_t s = 0; s < n; ++s) {
      if (!at[s] || !steps[s].takes(c)) continue;
      next[s + 1] = 1;
      // A step that was taken once may be taken again from where it stands.
      if (steps[s].repeats) next[s] = 1;
    }
    // "+" that has been satisfied leaves both states; one that has not cannot be skipped.
    close(next);
    at.swap(next);
  }
  return at[n];
}

constexpr std::array<std::string_view, 4> kForeignWeights = {"pissa", "olora", "corda", "lora_ga"};

bool is_unset(const Json* value) {
  if (!value || value->is_null()) return true;
  if (value->is_bool()) return !value->as_bool();
  if (value->is_array()) return value->items().empty();
  return value->is_object() && value->members().empty();
}

double number_or(const Json& config, std::string_view key, double fallback) {
  const Json* value = config.find(key);
  return value && !value->is_null() ? value->as_double() : fallback;
}

bool flag(const Json& config, std::string_view key) {
  const Json* value = config.find(key);
  return value && !value->is_null() && value->as_bool();
}

void refuse_unknown_effects(const Json& config, std::string_view origin) {
  const struct {
    std::string_view key, what;
  } kEffects[] = {
      {"modules_to_save", "whole modules beside the matrices"},
      {"fan_in_fan_out", "weights that lie transposed"},
      {"layer_replication", "layers that are repeated"},
      {"lora_bias", "biases of the matrices"},
      {"trainable_token_indices", "rows of the embedding"},
      {"alora_invocation_tokens", "an adapter that some tokens switch on"},
      {"arrow_config", "a router between adapters"},
      {"use_qalora", "pooled inputs (QALoRA)"},
      {"use_bdlora", "block-diagonal matrices"},
      {"kasa_config", "singular values (KaSA)"},
      {"monteclora_config", "sampled matrices (MonteCLoRA)"},
      {"velora_config", "compressed inputs (VeLoRA)"},
  };
  for (const auto& [key, what] : kEffects)
    VIADUCT_USER_CHECK(is_unset(config.find(key)),
                       "{}: \"{}\" is {}: {} cannot be converted. Merge the adapter with PEFT instead", origin, key,
                       config.find(key)->dump(), what);
  if (const Json* bias = config.find("bias"); bias && !bias->is_null())
    VIADUCT_USER_CHECK(bias->as_string() == "none",
                       "{}: \"bias\" is \"{}\": trained biases cannot be converted. Merge the adapter with PEFT "
                       "instead",
                       origin, bias->as_string());
  if (const Json* init = config.find("init_lora_weights"); init && init->is_string())
    for (const std::string_view other : kForeignWeights)
      VIADUCT_USER_CHECK(!init->as_string().starts_with(other),
                         "{}: \"init_lora_weights\" is \"{}\": such an adapter belongs to a base that PEFT changed "
                         "when training began. Save it with PEFT's path_initial_model_for_weight_conversion first",
                         origin, init->as_string());
}

}  // namespace

bool pattern_matches(std::string_view pattern, std::string_view module) {
  if (pattern.starts_with('^')) {
    pattern.remove_prefix(1);
  } else {
    // The end of a name, behind a point.
    for (size_t at = 0; at < module.size(); ++at) {
      const size_t point = module.find('.', at);
      if (point == std::string_view::npos) break;
      if (pattern_matches(fmt::format("^{}", pattern), module.substr(point + 1))) return true;
      at = point;
    }
  }
  if (pattern.ends_with('$') && !pattern.ends_with("\\$")) pattern.remove_suffix(1);
  return matches(read_pattern(pattern), module);
}

AdapterSpec read_peft_config(const Json& config, std::string_view origin) {
  VIADUCT_USER_CHECK(config.is_object(), "{}: an adapter's configuration is a JSON object", origin);
  const Json* type = config.find("peft_type");
  VIADUCT_USER_CHECK(type && type->is_string(), "{}: there is no \"peft_type\"", origin);
  VIADUCT_USER_CHECK(type->as_string() == "LORA",
                     "{}: \"peft_type\" is \"{}\"; LORA (with or without use_dora) is what can be converted",
                     origin, type->as_string());
  refuse_unknown_effects(config, origin);
  AdapterSpec spec;
  spec.rank = static_cast<int64_t>(number_or(config, "r", 8));
  spec.alpha = number_or(config, "lora_alpha", 8);
  VIADUCT_USER_CHECK(spec.rank >= 1 && std::isfinite(spec.alpha), "{}: \"r\" is {} and \"lora_alpha\" is {}",
                     origin, spec.rank, spec.alpha);
  spec.dropout = number_or(config, "lora_dropout", 0);
  spec.use_rslora = flag(config, "use_rslora");
  if (flag(config, "use_dora")) spec.kind = AdapterKind::kDora;
  if (const Json* base = config.find("base_model_name_or_path"); base && base->is_string())
    spec.base_model = base->as_string();
  if (const Json* pattern = config.find("alpha_pattern"); pattern && pattern->is_object())
    for (const auto& [key, value] : pattern->members()) spec.alphas.emplace_back(key, value.as_double());
  if (const Json* targets = config.find("target_parameters"); targets && targets->is_array())
    for (const Json& target : targets->items()) spec.target_parameters.push_back(target.as_string());
  spec.peft_config = config;
  return spec;
}

AdapterSpec read_peft_section(const Yaml& section, std::string_view origin) {
  VIADUCT_USER_CHECK(section.is_mapping(), "{}: peft is {}, not a mapping", origin, section.describe());
  const std::string& target = section.at("_target_").as_string();
  const std::string name = target.substr(target.rfind('.') + 1);
  AdapterSpec spec;
  spec.rank = spec.alpha = 32;
  if (name == "CanonicalLoRA") {
    spec.kind = AdapterKind::kCanonicalLora;
  } else if (name == "DoRA") {
    spec.kind = AdapterKind::kDora;
    spec.alpha = 64;
  } else {
    VIADUCT_USER_CHECK(name == "LoRA" || name == "VLMLoRA",
                       "{}: peft is {}; LoRA, VLMLoRA, CanonicalLoRA and DoRA are what can be converted", origin,
                       target);
  }
  if (const Yaml* dim = section.find("dim")) spec.rank = dim->as_int();
  if (const Yaml* alpha = section.find("alpha")) spec.alpha = alpha->as_double();
  if (const Yaml* dropout = section.find("dropout")) spec.dropout = dropout->as_double();
  if (const Yaml* normalize = section.find("normalize_moe_lora")) spec.normalize_experts = normalize->as_bool();
  VIADUCT_USER_CHECK(spec.rank >= 1 && std::isfinite(spec.alpha), "{}: peft.dim is {} and peft.alpha is {}", origin,
                     spec.rank, spec.alpha);
  if (const Yaml* shared = section.find("experts_shared_outer_loras"); shared && shared->as_bool())
    throw UserError(
        fmt::format("{}: peft.experts_shared_outer_loras is true; experts that share one half of their "
                    "matrices have no form in PEFT",
                    origin));
  return spec;
}

namespace {

// A whole number as Python's int, any other as its float.
Json json_number(double value) {
  if (std::rint(value) == value && std::abs(value) < 1e15) return Json(static_cast<int64_t>(value));
  return Json(value);
}

Yaml yaml_number(double value) {
  if (std::rint(value) == value && std::abs(value) < 1e15) return Yaml(static_cast<int64_t>(value));
  return Yaml(value);
}

}  // namespace

Json peft_config_json(const AdapterSpec& spec, const std::vector<std::string>& modules,
                      const std::vector<std::pair<std::string, int64_t>>& ranks) {
  Json rank_pattern = Json::object(), alpha_pattern = Json::object(), names = Json::array();
  for (const auto& [module, rank] : ranks) rank_pattern.set(module, rank);
  for (const auto& [module, alpha] : spec.alphas) alpha_pattern.set(module, json_number(alpha));
  for (const std::string& module : modules) names.items().emplace_back(module);
  Json config = Json::object();
  config.set("peft_type", "LORA");
  config.set("auto_mapping", Json());
  config.set("base_model_name_or_path", spec.base_model);
  config.set("bias", "none");
  config.set("fan_in_fan_out", false);
  config.set("inference_mode", true);
  config.set("init_lora_weights", true);
  config.set("lora_alpha", json_number(spec.alpha));
  config.set("lora_dropout", spec.target_parameters.empty() ? Json(spec.dropout) : Json(0.0));
  config.set("modules_to_save", Json());
  config.set("r", spec.rank);
  config.set("rank_pattern", std::move(rank_pattern));
  config.set("alpha_pattern", std::move(alpha_pattern));
  config.set("target_modules", std::move(names));
  config.set("task_type", "CAUSAL_LM");
  config.set("use_dora", spec.kind == AdapterKind::kDora);
  config.set("use_rslora", spec.use_rslora);
  if (!spec.target_parameters.empty()) {
    Json parameters = Json::array();
    for (const std::string& parameter : spec.target_parameters) parameters.items().emplace_back(parameter);
    config.set("target_parameters", std::move(parameters));
  }
  return config;
}

Yaml peft_section(const AdapterSpec& spec, const std::vector<std::string>& targets,
                  const std::vector<std::string>& parameters, bool shared_experts) {
  const auto names = [](const std::vector<std::string>& list) {
    Yaml sequence = Yaml::sequence();
    for (const std::string& name : list) sequence.items().emplace_back(name);
    return sequence;
  };
  std::vector<Yaml::Member> saved, canonical;
  for (const std::string& name : parameters) saved.emplace_back(Yaml("module." + name), Yaml());
  const bool is_canonical = spec.kind == AdapterKind::kCanonicalLora, dora = spec.kind == AdapterKind::kDora;
  if (is_canonical) {
    // The fused layer that each target is a part of.
    const struct {
      std::string_view part, whole;
    } kParts[] = {{"linear_fc1_gate", "linear_fc1"},
                  {"linear_fc1_up", "linear_fc1"},
                  {"linear_q", "linear_qkv"},
                  {"linear_k", "linear_qkv"},
                  {"linear_v", "linear_qkv"}};
    for (const std::string& target : targets) {
      std::string whole = target, part = target;
      for (const auto& [end, fused] : kParts)
        if (target.ends_with(end)) {
          whole = target.substr(0, target.size() - end.size()) + std::string(fused);
          part = end;
        }
      auto it = canonical.begin();
      while (it != canonical.end() && it->first.as_string() != whole) ++it;
      if (it == canonical.end()) it = canonical.insert(it, {Yaml(whole), Yaml::set_of()});
      it->second.members().emplace_back(Yaml(part), Yaml());
    }
  }
  Yaml section = Yaml::mapping();
  section.set("_target_", is_canonical ? "megatron.bridge.peft.canonical_lora.CanonicalLoRA"
                          : dora       ? "megatron.bridge.peft.dora.DoRA"
                                       : "megatron.bridge.peft.lora.LoRA");
  if (!is_canonical && !dora) section.set("a2a_experimental", false);
  section.set("alpha", yaml_number(spec.alpha));
  section.set("canonical_mapping", Yaml::mapping(std::move(canonical)));
  section.set("dim", spec.rank);
  section.set("dropout", spec.dropout);
  section.set("dropout_position", "pre");
  section.set("exclude_modules", Yaml::sequence());
  if (!is_canonical && !dora) section.set("experts_shared_outer_loras", false);
  section.set("lora_A_init_method", "xavier");
  section.set("lora_B_init_method", "zero");
  if (!is_canonical && !dora) section.set("lora_dtype", Yaml());
  if (!dora) section.set("normalize_moe_lora", spec.normalize_experts);
  section.set("params_to_save", Yaml::set_of(std::move(saved)));
  if (!is_canonical && !dora) section.set("sequence_parallel_input_regather", false);
  if (!dora) section.set("share_expert_adapters", shared_experts);
  section.set("target_modules", names(targets));
  return section;
}

}  // namespace viaduct::adapters
