#include "viaduct/peft/targets.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <regex>

#include "viaduct/adapters/adapter_graph.h"
#include "viaduct/core/error.h"

namespace viaduct::peft {

namespace {

std::string_view last_word(std::string_view module) { return module.substr(module.rfind('.') + 1); }

// As upstream reads a pattern "*" is any text. But a dot is a dot: by upstream's reading "*.layers.1.*" names
// layers 10 to 19, too.
std::string regular_expression(std::string_view pattern) {
  std::string result;
  for (const char c : pattern) {
    const bool escaped = !result.empty() && result.back() == '\\';
    if (c == '*')
      result += ".*";
    else if (c == '.' && !escaped)
      result += "\\.";
    else
      result += c;
  }
  return result;
}

// A name or a pattern of names.
class Pattern {
 public:
  explicit Pattern(std::string text) : text_(std::move(text)) {
    try {
      expression_.assign(regular_expression(text_), std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& error) {
      throw UserError(fmt::format("peft.target_modules or exclude_modules has \"{}\", which is no pattern: {}",
                                  text_, error.what()));
    }
  }
  bool names(std::string_view module) const {
    return text_ == last_word(module) || std::regex_match(module.begin(), module.end(), expression_);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::regex expression_;
};

// A part of a layer by the name that a target gives it.
struct Part {
  std::string_view target, layer, adapter;
};
constexpr Part kParts[] = {{"linear_q", "linear_qkv", "adapter_q"},
                           {"linear_k", "linear_qkv", "adapter_k"},
                           {"linear_v", "linear_qkv", "adapter_v"},
                           {"linear_fc1_up", "linear_fc1", "adapter_up"},
                           {"linear_fc1_gate", "linear_fc1", "adapter_gate"}};

const Part* part_of(std::string_view target) {
  for (const Part& part : kParts)
    if (target.ends_with(part.target)) return &part;
  return nullptr;
}

// What a target names, and which part of it; no part: all of it.
struct Wanted {
  std::string target;
  Pattern pattern;
  std::string part;
  bool found = false;
};

std::vector<Wanted> wanted_modules(const PeftOptions& options) {
  std::vector<Wanted> result;
  for (const std::string& target : options.target_modules) {
    const Part* part = options.kind == adapters::AdapterKind::kCanonicalLora ? part_of(target) : nullptr;
    std::string layer = target;
    if (part) layer = target.substr(0, target.size() - part->target.size()) + std::string(part->layer);
    result.push_back({target, Pattern(std::move(layer)), part ? std::string(part->adapter) : ""});
  }
  return result;
}

// Can the layer's parts have adapters of their own? Experts' cannot, nor can an MLP without a gate.
bool has_parts(const models::Parameter& parameter, const models::ArchSpec& arch) {
  if (parameter.expert >= 0) return false;
  const std::string module = parameter.module();
  if (last_word(module) == "linear_qkv") return true;
  const models::LayerSpec* layer = parameter.layer_in(arch);
  return last_word(module) == "linear_fc1" && layer && layer->mlp.gated;
}

}  // namespace

bool names_module(std::string_view pattern, std::string_view module) {
  return Pattern(std::string(pattern)).names(module);
}

std::vector<Target> find_targets(const std::vector<models::Parameter>& parameters, const models::ArchSpec& arch,
                                 const PeftOptions& options) {
  VIADUCT_USER_CHECK(options.target_modules.empty() || options.exclude_modules.empty(),
                     "peft.target_modules and peft.exclude_modules: exactly one of them says what is adapted");
  std::vector<Wanted> wanted = wanted_modules(options);
  std::vector<Pattern> excluded;
  for (const std::string& pattern : options.exclude_modules) excluded.emplace_back(pattern);
  std::vector<Target> result;
  std::set<std::string> words;
  for (const models::Parameter& parameter : parameters) {
    if (!adapters::is_linear(parameter) || parameter.mtp_layer >= 0) continue;
    const std::string module = parameter.module();
    words.emplace(last_word(module));
    if (!result.empty() && result.back().module == module) continue;  // another expert's weight
    Target target{module, {}};
    bool adapted = wanted.empty();
    for (const Pattern& pattern : excluded) adapted = adapted && !pattern.names(module);
    for (Wanted& each : wanted) {
      if (!each.pattern.names(module)) continue;
      each.found = adapted = true;
      if (!each.part.empty() && has_parts(parameter, arch)) target.parts.insert(each.part);
    }
    if (adapted) result.push_back(std::move(target));
  }
  for (const Wanted& each : wanted)
    VIADUCT_USER_CHECK(each.found,
                       "peft.target_modules has \"{}\", which names no linear layer of the {} model; there are {}, "
                       "and paths such as *.layers.0.*.{}",
                       each.target, arch.family, fmt::join(words, ", "), words.empty() ? "" : *words.begin());
  VIADUCT_USER_CHECK(!result.empty(), "peft.exclude_modules leaves no linear layer to adapt");
  return result;
}

int64_t adapter_rank(const PeftOptions& options, const models::Parameter& parameter, const models::ArchSpec& arch,
                     int64_t etp) {
  if (!options.normalize_moe_lora || parameter.expert < 0) return options.dim;
  const int64_t top_k = parameter.layer_in(arch)->moe.value().top_k;
  VIADUCT_USER_CHECK(top_k > 0 && options.dim % top_k == 0,
                     "peft.normalize_moe_lora=true: peft.dim={} is no multiple of moe_router_topk={}", options.dim,
                     top_k);
  const int64_t rank = options.dim / top_k;
  return parameter.split.axis == 1 ? rank : (rank + etp - 1) / etp * etp;
}

}  // namespace viaduct::peft
