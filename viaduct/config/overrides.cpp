#include "viaduct/config/overrides.h"

#include <algorithm>
#include <cctype>

#include "viaduct/config/override_value.h"
#include "viaduct/config/upstream_values.h"
#include "viaduct/config/yaml_path.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

using Action = Override::Action;

bool is_key_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
         std::string_view("_-.[]$").find(c) != std::string_view::npos;
}

/// "a.b[0]" -> "a.b.0".
std::string plain_path(std::string_view path) {
  std::string out;
  for (char c : path) {
    if (c == '[') out += '.';
    if (c != '[' && c != ']') out += c;
  }
  return out;
}

/// Where the key of an override begins, and what is before it.
std::pair<Action, size_t> action_of(std::string_view text) {
  if (text.starts_with("++")) return {Action::kForce, 2};
  if (text.starts_with("+")) return {Action::kAdd, 1};
  if (text.starts_with("~")) return {Action::kDelete, 1};
  return {Action::kSet, 0};
}

/// What upstream lets stand for values that YAML has no word for: members of enums and dtypes by short names. Text
/// that reads as a number is what a field of strings was given.
Yaml as_field_takes(Yaml value, const Yaml& current, const std::string& expects, const Override& override) {
  static constexpr std::pair<std::string_view, std::string_view> kDtypes[] = {
      {"bf16", "torch.bfloat16"}, {"fp16", "torch.float16"}, {"fp32", "torch.float32"}};
  if (expects.starts_with("a string") && (value.is_number() || value.is_bool())) return Yaml(override.value_text);
  if (!value.is_string()) return value;
  if (const std::string* target = target_in(current)) {
    if (last_word(*target) == "AttnBackend")
      return Codec<PyEnum>::encode(attention_backend_named(value.as_string()));
    if (last_word(*target) == "Signals") return Codec<PyEnum>::encode(signal_named(value.as_string()));
  }
  if (expects.starts_with("a dtype"))
    for (const auto& [short_name, name] : kDtypes)
      if (value.as_string() == short_name) return Yaml(name);
  return value;
}

/// A section of the same class with all its defaults.
Yaml fresh_section(const ContainerSection& section, const Yaml& current, const KeyPlaces& places) {
  ConfigContainer fresh;
  const std::string* target = target_in(current);
  if (section.name == "model") {
    fresh.model = ModelConfig::class_defaults(target ? *target : fresh.model.target);
  } else {
    section.merge(fresh, target ? Yaml::mapping({{"_target_", *target}}) : Yaml::mapping(), places);
  }
  return section.get(fresh);
}

/// One override at work. UserErrors have no "override '...': " before them yet.
class Change {
 public:
  Change(ConfigContainer& config, const Override& override)
      : config_(config),
        override_(override),
        head_(split_path(override.path).first),
        section_(container_section(head_)),
        places_([this](std::string_view key) { return fmt::format("{}.{}", head_, key); }) {}

  void make() {
    const std::string_view rest = split_path(override_.path).second;
    rest.empty() ? change_section() : change_field(rest);
    config_.null_sections.erase(std::string(head_));
  }

 private:
  bool deletes() const { return override_.action == Action::kDelete; }

  /// ~a=1 deletes only a 1.
  void check_deleted_value(const Yaml& there, std::string_view where) const {
    if (override_.value && !(*override_.value == there))
      throw UserError(fmt::format("{} is not {} but {}", where, override_.value->describe(), there.describe()));
  }

  void change_section() {
    const Yaml current = section_.get(config_);
    if (deletes()) {
      VIADUCT_USER_CHECK(section_.nullable, "the section {} cannot be taken away", head_);
      check_deleted_value(current, head_);
      return section_.set(config_, Yaml(), head_);
    }
    const Yaml& value = *override_.value;
    VIADUCT_USER_CHECK(!value.is_null() || section_.nullable, "the section {} cannot be null", head_);
    VIADUCT_USER_CHECK(override_.action != Action::kAdd || current.is_null() || value.is_mapping(),
                       "there is a section {} already; take the + away to change it", head_);
    if (!value.is_mapping()) return section_.set(config_, value, head_);
    for (const auto& [key, ignored] : value.members())
      if (key.is_string() && !key.as_string().starts_with("_target_") && !value.contains("_target_"))
        check_key(key.as_string());
    section_.merge(config_, value, places_);
    refuse_new_unknown();
  }

  void change_field(std::string_view path) {
    const auto [field, inside] = split_path(path);
    begin_section(field);
    const Yaml current = section_.get(config_);
    check_key(field);
    const Yaml* there = current.find(field);
    const std::string expects = section_.expects(config_, field);
    Yaml value = there ? *there : Yaml();
    if (!inside.empty()) {
      PathChange change;
      change.erase = deletes();
      change.may_add = override_.action == Action::kAdd || override_.action == Action::kForce;
      change.must_exist = override_.action != Action::kAdd;
      change.creates_parts = change.may_add || expects.starts_with("a mapping of the class");
      if (change.creates_parts && value.is_null() && expects.starts_with("a mapping of the class"))
        change.may_add = true;  // a part that begins with its defaults has all keys; unknown ones are refused below
      change_at(value, inside, change, override_.value.value_or(Yaml()), places_(field));
    } else if (deletes()) {
      VIADUCT_USER_CHECK(there, "there is no {}", places_(field));
      check_deleted_value(*there, places_(field));
      value = expects.find("null") != std::string::npos ? Yaml() : deleted_value(field, current);
    } else {
      const bool adds = override_.action != Action::kSet;
      VIADUCT_USER_CHECK(there || adds || field == "_target_", "there is no {}; a + before the override adds it",
                         places_(field));
      VIADUCT_USER_CHECK(
          override_.action != Action::kAdd || !there || there->is_null() || !override_.value->is_scalar(),
          "there is a {} already; take the + away to change it", places_(field));
      value = as_field_takes(*override_.value, value, expects, override_);
      if (there) value = deep_merge(*there, value);
    }
    section_.merge(config_, Yaml::mapping({{field, value}}), places_);
    refuse_new_unknown();
  }

  /// A recipe's name becomes its settings, and null the section's defaults.
  void begin_section(std::string_view field) {
    const Yaml current = section_.get(config_);
    if (current.is_string() || (current.is_null() && field != "_target_"))
      section_.merge(config_, Yaml::mapping(), places_);
  }

  Yaml deleted_value(std::string_view field, const Yaml& current) const {
    const Yaml fresh = fresh_section(section_, current, places_);
    const Yaml* value = fresh.find(field);
    return value ? *value : Yaml();
  }

  void check_key(std::string_view key) const {
    const std::vector<std::string> keys = section_.keys(config_);
    if (!keys.empty() && key != "_target_" && std::find(keys.begin(), keys.end(), key) == keys.end())
      throw_unknown_key(key, head_, keys);
  }

  /// Keys inside a part of the section: "dataset.source.splitt".
  void refuse_new_unknown() const {
    for (const UnknownKey& key : unknown_keys(config_)) {
      if (!key.path.starts_with(override_.path)) continue;
      const size_t dot = key.path.rfind('.');
      throw_unknown_key(key.path.substr(dot + 1), key.path.substr(0, dot), key.known);
    }
  }

  ConfigContainer& config_;
  const Override& override_;
  std::string_view head_;
  const ContainerSection& section_;
  KeyPlaces places_;
};

}  // namespace

bool is_override(std::string_view word) {
  const auto [action, begin] = action_of(word);
  const std::string_view rest = word.substr(begin);
  const size_t equal = rest.find('=');
  const std::string_view key = rest.substr(0, equal);
  if (key.empty() || key[0] == '-' || key[0] == '.') return false;
  if (!std::all_of(key.begin(), key.end(), is_key_character)) return false;
  return equal != std::string_view::npos || action == Action::kDelete;
}

Override parse_override(std::string_view text) {
  VIADUCT_USER_CHECK(is_override(text),
                     "override '{}': expected section.key=value, +section.key=value or ~section.key", text);
  const auto [action, begin] = action_of(text);
  const std::string_view rest = text.substr(begin);
  const size_t equal = rest.find('=');
  Override override;
  override.action = action;
  override.text = text;
  override.path = plain_path(rest.substr(0, equal));
  // With a value of as many levels, what YAML reads again.
  constexpr int kMostWords = 50;
  VIADUCT_USER_CHECK(std::ranges::count(override.path, '.') < kMostWords,
                     "override '{}': the path has more than {} words", text, kMostWords);
  if (equal == std::string_view::npos) return override;
  override.value_text = rest.substr(equal + 1);
  try {
    override.value = parse_override_value(override.value_text);
  } catch (const UserError& error) {
    throw UserError(fmt::format("override '{}': {}", text, error.what()));
  }
  return override;
}

void apply_override(ConfigContainer& config, const Override& override) {
  try {
    // Into a copy, so that what cannot be applied changes nothing.
    ConfigContainer changed = config;
    Change(changed, override).make();
    config = std::move(changed);
  } catch (const UserError& error) {
    throw UserError(fmt::format("override '{}': {}", override.text, error.what()));
  }
}

void apply_overrides(ConfigContainer& config, std::span<const std::string> overrides) {
  std::vector<Override> parsed;
  std::string message;
  const auto collect = [&](auto&& work) {
    try {
      work();
    } catch (const UserError& error) {
      if (!message.empty()) message += "\n";
      message += error.what();
    }
  };
  for (const std::string& text : overrides) collect([&] { parsed.push_back(parse_override(text)); });
  std::stable_partition(parsed.begin(), parsed.end(),
                        [](const Override& override) { return override.path.ends_with("._target_"); });
  for (const Override& override : parsed) collect([&] { apply_override(config, override); });
  if (!message.empty()) throw UserError(message);
}

void merge_yaml(ConfigContainer& config, const Yaml& written, std::string_view origin, const YamlLines* lines) {
  VIADUCT_USER_CHECK(written.is_mapping(), "{}: {}, not a mapping of sections", origin, written.describe());
  const Yaml document = with_declared_types(written);
  check_keys(document, [&](std::string_view key) { return key_place(origin, key, lines); });
  for (const auto& [key, node] : document.members()) {
    const std::string& name = key.as_string();
    if (name == "_target_") continue;
    const std::string where = key_place(origin, name, lines);
    const auto all = container_sections();
    const auto section =
        std::find_if(all.begin(), all.end(), [&](const ContainerSection& s) { return s.name == name; });
    if (section == all.end()) {
      config.unknown.set(name, node);
      continue;
    }
    VIADUCT_USER_CHECK(!node.is_null() || section->nullable, "{}: this section cannot be null", where);
    config.null_sections.erase(name);
    if (!node.is_mapping()) {
      section->set(config, node, where);
      continue;
    }
    const Yaml current = section->get(config);
    Yaml merged = node;
    for (auto& [field, value] : merged.members())
      if (const Yaml* there = field.is_string() ? current.find(field.as_string()) : nullptr)
        value = deep_merge(*there, value);
    section->merge(config, merged, [&](std::string_view field) {
      return key_place(origin, fmt::format("{}.{}", name, field), lines);
    });
  }
  refuse_unknown_keys(config, origin, lines);
}

void merge_yaml_file(ConfigContainer& config, const Path& path) {
  YamlLines lines;
  const Yaml document = read_yaml_file(path, {}, &lines);
  merge_yaml(config, document, path.string(), &lines);
}

void process_config_with_overrides(ConfigContainer& config, const std::optional<Path>& file,
                                   std::span<const std::string> overrides) {
  if (file) merge_yaml_file(config, *file);
  apply_overrides(config, overrides);
}

}  // namespace viaduct::config
