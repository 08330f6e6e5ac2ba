#include "viaduct/config/python_values.h"

#include <array>
#include <cmath>

namespace viaduct::config {
namespace {

constexpr std::string_view kTarget = "_target_";
constexpr std::string_view kCall = "_call_";
constexpr std::string_view kPartial = "_partial_";
constexpr std::string_view kArgs = "_args_";
constexpr std::string_view kName = "_name_";

bool has_target(const Yaml& node) {
  const Yaml* target = node.find(kTarget);
  return target && target->is_string();
}

bool is_flag(const Yaml& node, std::string_view key, bool wanted) {
  const Yaml* flag = node.find(key);
  return flag && flag->is_bool() && flag->as_bool() == wanted;
}

/// Short names under which the releases after 0.6 write activation functions.
struct ShortName {
  std::string_view name;
  std::string_view target;
};
constexpr std::array<ShortName, 10> kShortNames = {{
    {"gelu", "torch.nn.functional.gelu"},
    {"relu", "torch.nn.functional.relu"},
    {"silu", "torch.nn.functional.silu"},
    {"sigmoid", "torch.nn.functional.sigmoid"},
    {"tanh", "torch.tanh"},
    {"relu2", "megatron.core.activations.squared_relu"},
    {"squared_relu", "megatron.core.activations.squared_relu"},
    {"gelu_pytorch_tanh", "megatron.core.activations.fast_gelu"},
    {"fast_gelu", "megatron.core.activations.fast_gelu"},
    {"quick_gelu", "megatron.core.fusions.fused_bias_geglu.quick_gelu"},
}};

std::optional<std::string> function_named(std::string_view text) {
  for (const ShortName& known : kShortNames)
    if (text == known.name || text == known.target) return std::string(known.target);
  return std::nullopt;
}

}  // namespace

Partial normal_init(double std) {
  Partial out{"torch.nn.init.normal_", {}, Yaml::mapping()};
  out.keywords.set("mean", 0.0);
  out.keywords.set("std", std);
  return out;
}

std::string_view target_of(const Callable& callable) {
  if (const auto* function = std::get_if<FunctionRef>(&callable)) return function->target;
  if (const auto* partial = std::get_if<Partial>(&callable)) return partial->target;
  return std::get<ObjectNode>(callable).node.at(kTarget).as_string();
}

std::string_view last_word(std::string_view target) { return target.substr(target.rfind('.') + 1); }

bool Codec<bool>::accepts(const Yaml& node) { return node.is_bool(); }
bool Codec<bool>::decode(const Yaml& node) { return node.as_bool(); }
Yaml Codec<bool>::encode(const bool& value) { return Yaml(value); }
std::string Codec<bool>::expects() { return "true or false"; }

bool Codec<int64_t>::accepts(const Yaml& node) { return node.is_int() && !node.is_big_integer(); }
int64_t Codec<int64_t>::decode(const Yaml& node) { return node.as_int(); }
Yaml Codec<int64_t>::encode(const int64_t& value) { return Yaml(value); }
std::string Codec<int64_t>::expects() { return "an integer"; }

bool Codec<Number>::accepts(const Yaml& node) { return node.is_float() || Codec<int64_t>::accepts(node); }
Number Codec<Number>::decode(const Yaml& node) {
  return node.is_int() ? Number(node.as_int()) : Number(node.as_double());
}
Yaml Codec<Number>::encode(const Number& value) {
  return value.is_integer() ? Yaml(value.integer()) : Yaml(static_cast<double>(value));
}
std::string Codec<Number>::expects() { return "a number"; }

bool Codec<std::string>::accepts(const Yaml& node) { return node.is_string(); }
std::string Codec<std::string>::decode(const Yaml& node) { return node.as_string(); }
Yaml Codec<std::string>::encode(const std::string& value) { return Yaml(value); }
std::string Codec<std::string>::expects() { return "a string"; }

bool Codec<Yaml>::accepts(const Yaml&) { return true; }
Yaml Codec<Yaml>::decode(const Yaml& node) { return node; }
Yaml Codec<Yaml>::encode(const Yaml& value) { return value; }
std::string Codec<Yaml>::expects() { return "anything"; }

bool Codec<TorchDtype>::accepts(const Yaml& node) {
  const Yaml* name = node.is_string() ? &node : node.find(kTarget);
  return name && name->is_string() && dtype_from_torch_name(name->as_string());
}
TorchDtype Codec<TorchDtype>::decode(const Yaml& node) {
  return *dtype_from_torch_name((node.is_string() ? node : node.at(kTarget)).as_string());
}
Yaml Codec<TorchDtype>::encode(const TorchDtype& value) {
  return Codec<FunctionRef>::encode({"torch." + std::string(torch_name(value))});
}
std::string Codec<TorchDtype>::expects() { return "a dtype like {_call_: false, _target_: torch.bfloat16}"; }

bool Codec<FunctionRef>::accepts(const Yaml& node) {
  if (node.is_string()) return function_named(node.as_string()).has_value();
  return has_target(node) && is_flag(node, kCall, false) && node.members().size() == 2;
}
FunctionRef Codec<FunctionRef>::decode(const Yaml& node) {
  if (node.is_string()) return {*function_named(node.as_string())};
  return {node.at(kTarget).as_string()};
}
Yaml Codec<FunctionRef>::encode(const FunctionRef& value) {
  return Yaml::mapping({{kCall, false}, {kTarget, value.target}});
}
std::string Codec<FunctionRef>::expects() {
  return "a function like {_call_: false, _target_: torch.nn.functional.silu}";
}

bool Codec<Partial>::accepts(const Yaml& node) {
  const Yaml* args = node.find(kArgs);
  return has_target(node) && is_flag(node, kPartial, true) && (!args || args->is_sequence());
}
Partial Codec<Partial>::decode(const Yaml& node) {
  Partial out{node.at(kTarget).as_string(), {}, Yaml::mapping()};
  if (const Yaml* args = node.find(kArgs)) out.args = args->items();
  for (const Yaml::Member& member : node.members()) {
    const bool own =
        member.first.is_string() && (member.first.as_string() == kTarget || member.first.as_string() == kArgs ||
                                     member.first.as_string() == kPartial);
    if (!own) out.keywords.members().push_back(member);
  }
  return out;
}
Yaml Codec<Partial>::encode(const Partial& value) {
  Yaml out = Yaml::mapping({{kArgs, Yaml::sequence(value.args)}, {kPartial, true}, {kTarget, value.target}});
  for (const Yaml::Member& member : value.keywords.members()) out.members().push_back(member);
  return out;
}
std::string Codec<Partial>::expects() { return "a partial ({_partial_: true, _target_: ..., ...})"; }

bool Codec<ObjectNode>::accepts(const Yaml& node) { return has_target(node); }
ObjectNode Codec<ObjectNode>::decode(const Yaml& node) { return {node}; }
Yaml Codec<ObjectNode>::encode(const ObjectNode& value) { return value.node; }
std::string Codec<ObjectNode>::expects() { return "an object with a _target_"; }

bool Codec<PyEnum>::accepts(const Yaml& node) {
  const Yaml* args = node.find(kArgs);
  const Yaml* name = node.find(kName);
  return has_target(node) && args && args->is_sequence() && args->items().size() == 1 &&
         is_flag(node, kCall, true) && (!name || name->is_string()) && node.members().size() == (name ? 4u : 3u);
}
PyEnum Codec<PyEnum>::decode(const Yaml& node) {
  const Yaml* name = node.find(kName);
  return {node.at(kArgs).items().front(), name ? std::optional(name->as_string()) : std::nullopt,
          node.at(kTarget).as_string()};
}
Yaml Codec<PyEnum>::encode(const PyEnum& value) {
  Yaml out = Yaml::mapping({{kArgs, Yaml::sequence({value.value})}, {kCall, true}});
  if (value.name) out.set(kName, *value.name);
  out.set(kTarget, value.target);
  return out;
}
std::string Codec<PyEnum>::expects() { return "an enum member like {_args_: [5], _call_: true, _target_: ...}"; }

void throw_wrong_type(std::string_view where, const std::string& expected, const Yaml& found) {
  std::string hint;
  // 1e-05 without a point is a string to YAML 1.1, and the likeliest slip in a hand-written file.
  if (found.is_string() && expected.find("number") != std::string::npos) {
    const std::string& text = found.as_string();
    const size_t e = text.find_first_of("eE");
    if (e != std::string::npos && text.find_first_not_of("0123456789+-.eE_") == std::string::npos)
      hint = ". YAML reads a number with an exponent only with a point and a sign: 1.0e-05";
  }
  if (found.is_float() && expected.starts_with("an integer")) {
    const double number = found.as_double();
    if (std::nearbyint(number) == number && std::abs(number) < 9e15)
      hint = fmt::format(". Write {}", static_cast<int64_t>(number));
  }
  throw UserError(fmt::format("{}: expected {}, found {}{}", where, expected, found.describe(), hint));
}

}  // namespace viaduct::config
