// Section: a struct of configuration with one of upstream's classes behind it, made by a table of its fields.
// sections.h has them; here is how each is read and written.
#pragma once

#include <concepts>
#include <functional>
#include <string>
#include <string_view>

#include "viaduct/config/reflection.h"

namespace viaduct::config {

/// A struct made by a SECTION of a table: `target` is upstream's class, `unknown` the keys of a file that no field
/// has, kept and written back.
template <class T>
concept Section = requires(T section) {
  { T::kTarget } -> std::convertible_to<std::string_view>;
  { T::kClasses } -> std::convertible_to<std::string_view>;
  { section.target } -> std::convertible_to<std::string>;
  { section.unknown } -> std::convertible_to<Yaml>;
};

/// Is the last word of a dotted path ("LoRA") among `classes`, words by blanks?
bool names_class(std::string_view target, std::string_view classes);
/// A path as it is; a word alone ("VLMLoRA") with the module of `sibling` before it.
std::string full_target(std::string_view target, std::string_view sibling);
/// The _target_ of a mapping; nullptr when it has none that is a string.
const std::string* target_in(const Yaml& node);

/// UserError unless all keys of a section's mapping are strings and its _target_, where it has one, is the path of
/// a class. `where(key)` begins the message.
void check_keys(const Yaml& node, const std::function<std::string(std::string_view key)>& where);

/// What releases before 0.6 called a field.
struct OldName {
  std::string_view class_name;  // last word of the section's class as it is here (T::kTarget)
  std::string_view old_name;
  std::string_view name;
  std::string_view switch_name;  // a field that is true with it; empty: none
};
/// The row for a key that the class has not; nullptr when none of its fields was called so.
const OldName* find_old_name(std::string_view target, std::string_view key);

/// Does the section's class have the field?
template <Section T>
bool has_field(const T& section, const Field<T>& field) {
  return field.only_for.empty() || field.only_for == last_word(section.target);
}

/// The names of the fields that the section's class has.
template <Section T>
std::vector<std::string> field_names(const T& section) {
  std::vector<std::string> names;
  for (const Field<T>& field : fields<T>())
    if (has_field(section, field)) names.emplace_back(field.name);
  return names;
}

/// The section with upstream's class and all its fields.
template <Section T>
Yaml section_to_yaml(const T& section) {
  Yaml out = Yaml::mapping({{"_target_", section.target}});
  for (const Field<T>& field : fields<T>())
    if (has_field(section, field)) out.members().emplace_back(field.name, field.get(section));
  for (const Yaml::Member& member : section.unknown.members()) out.members().push_back(member);
  return out;
}

/// Sets the fields that a mapping has and leaves the others; keys that no field has go to `unknown`. `where(name)`
/// begins the message of a UserError for a wrong type or choice.
template <Section T, class Where>
void read_section(T& section, const Yaml& node, Where where) {
  check_keys(node, where);
  if (const std::string* target = target_in(node)) section.target = full_target(*target, T::kTarget);
  for (const auto& [key, value] : node.members()) {
    const std::string& name = key.as_string();
    if (name == "_target_") continue;
    const Field<T>* field = find_field<T>(name);
    const OldName* old = field ? nullptr : find_old_name(T::kTarget, name);
    if (field && has_field(section, *field)) {
      set_field(section, *field, value, where(name));
    } else if (old && !node.contains(old->name)) {
      find_field<T>(old->name)->set(section, value, where(name));
      if (!old->switch_name.empty() && !value.is_null())
        find_field<T>(old->switch_name)->set(section, Yaml(true), where(name));
    } else if (!old) {
      section.unknown.set(name, value);
    }
  }
}

template <Section T>
struct Codec<T> {
  static bool is_class_of(const Yaml& node) {
    const std::string* target = target_in(node);
    return target && names_class(*target, T::kClasses);
  }
  static bool accepts(const Yaml& node) { return node.is_mapping() && (!target_in(node) || is_class_of(node)); }
  static T decode_at(const Yaml& node, std::string_view where) {
    T section;
    read_section(section, node, [&](std::string_view name) { return fmt::format("{}.{}", where, name); });
    return section;
  }
  static Yaml encode(const T& section) { return section_to_yaml(section); }
  static std::string expects() { return "a mapping of the class " + std::string(last_word(T::kTarget)); }
};

}  // namespace viaduct::config
