#include "viaduct/config/mixed_precision.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "viaduct/config/config_container.h"
#include "viaduct/core/json.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

struct Recipe {
  std::string_view name;
  std::string_view base;
  std::string_view settings;
};
constexpr Recipe kRecipes[] = {
#define R(name, base, settings) {#name, base, settings},
#include "viaduct/config/mixed_precision_recipes.inc"
#undef R
};

/// 1 and 1.0 are the same to Python.
bool equal_in_python(const Yaml& a, const Yaml& b) {
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  return a == b;
}

/// Writes the settings over the fields of one section that have their names.
template <class T>
void overwrite(T& section, std::string_view name, const MixedPrecisionConfig& settings,
               std::vector<std::string>& changes) {
  for (const Field<MixedPrecisionConfig>& setting : fields<MixedPrecisionConfig>()) {
    const Field<T>* field = find_field<T>(setting.name);
    if (!field) continue;
    const Yaml before = field->get(section), after = setting.get(settings);
    if (equal_in_python(before, after)) continue;
    if (after.is_null() && field->expects().find("null") == std::string::npos) continue;
    field->set(section, after, fmt::format("mixed_precision.{}", setting.name));
    changes.push_back(
        fmt::format("Overwrote {}.{} {} -> {}", name, setting.name, python_text(before), python_text(after)));
  }
}

void sync(std::optional<bool>& param, bool& gather, std::string_view name, const Yaml& node,
          std::string_view where) {
  const std::string gather_name = std::string(name) + "_gather";
  const Yaml *given = node.find(name), *given_gather = node.find(gather_name);
  if (given && given_gather && param && *param != gather)
    throw UserError(fmt::format("{}: {}={} and {}={} contradict each other; set one of them", where, name,
                                python_text(*given), gather_name, python_text(*given_gather)));
  if (given_gather) {
    param = gather;
  } else if (given && param) {
    gather = *param;
  } else if (given) {
    param = gather;  // null: as the other one says
  }
}

}  // namespace

std::vector<std::string> mixed_precision_recipes() {
  std::vector<std::string> names;
  for (const Recipe& recipe : kRecipes) names.emplace_back(recipe.name);
  return names;
}

MixedPrecisionConfig mixed_precision_recipe(std::string_view name) {
  std::string wanted(name);
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  for (const Recipe& recipe : kRecipes) {
    if (recipe.name != wanted) continue;
    MixedPrecisionConfig settings =
        recipe.base.empty() ? MixedPrecisionConfig{} : mixed_precision_recipe(recipe.base);
    const Yaml changes = parse_yaml(recipe.settings, recipe.name);
    read_section(settings, changes, [&](std::string_view field) { return fmt::format("{}: {}", name, field); });
    sync_param_gather(settings, changes, name);
    return settings;
  }
  const std::vector<std::string> known = mixed_precision_recipes();
  const std::optional<std::string> near = nearest(wanted, known);
  throw UserError(fmt::format("'{}' is no recipe of mixed precision{}. There are {}", name,
                              near ? fmt::format("; did you mean '{}'?", *near) : std::string(),
                              fmt::join(known, ", ")));
}

void sync_param_gather(MixedPrecisionConfig& settings, const Yaml& node, std::string_view where) {
  sync(settings.fp8_param, settings.fp8_param_gather, "fp8_param", node, where);
  sync(settings.fp4_param, settings.fp4_param_gather, "fp4_param", node, where);
}

std::vector<std::string> apply_mixed_precision(const MixedPrecisionConfig& settings, ConfigContainer& config) {
  std::vector<std::string> changes;
  overwrite(config.model, "model", settings, changes);
  overwrite(config.optimizer, "optimizer", settings, changes);
  overwrite(config.ddp, "ddp", settings, changes);
  return changes;
}

std::string python_text(const Yaml& value) {
  switch (value.kind()) {
    case Yaml::Kind::kNull: return "None";
    case Yaml::Kind::kBool: return value.as_bool() ? "True" : "False";
    case Yaml::Kind::kInt: return value.is_big_integer() ? value.big_digits() : std::to_string(value.as_int());
    case Yaml::Kind::kFloat: return python_repr(value.as_double());
    case Yaml::Kind::kString: return value.as_string();
    case Yaml::Kind::kSequence: {
      std::vector<std::string> items;
      for (const Yaml& item : value.items()) items.push_back(python_text(item));
      return fmt::format("[{}]", fmt::join(items, ", "));
    }
    case Yaml::Kind::kMapping:
    case Yaml::Kind::kSet: break;
  }
  if (const std::string* target = target_in(value); target && !value.contains("_args_")) return *target;
  if (const Yaml* name = value.find("_name_"); name && name->is_string()) return name->as_string();
  std::vector<std::string> members;
  for (const auto& [key, item] : value.members())
    members.push_back(value.is_set() ? python_text(key)
                                     : fmt::format("{}: {}", python_text(key), python_text(item)));
  return fmt::format("{{{}}}", fmt::join(members, ", "));
}

}  // namespace viaduct::config
