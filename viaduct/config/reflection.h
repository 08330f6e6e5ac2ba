// Reflection of config structs: one table of fields a struct, from which reading, writing, lookup by dotted path
// and comparison follow.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/config/python_values.h"
#include "viaduct/config/yaml.h"
#include "viaduct/core/error.h"

namespace viaduct::config {

/// One field of struct T. `providers` is a set of bits that the struct gives a meaning to.
template <class T>
struct Field {
  std::string_view name;
  uint32_t providers;
  Yaml (*get)(const T&);
  void (*set)(T&, const Yaml&, std::string_view where);  // UserError that starts with `where` for a wrong type
  std::string (*expects)();                              // "an integer or null"
  std::string_view choices = {};                         // the values that there are, by blanks; empty: any
  std::string_view only_for = {};                        // the only class of T that has it; empty: all
};

/// UserError that starts with `where` unless `value` is null or one of `choices` (Field::choices).
void check_choice(const Yaml& value, std::string_view choices, std::string_view where);

/// Field::set behind check_choice.
template <class T>
void set_field(T& object, const Field<T>& field, const Yaml& value, std::string_view where) {
  check_choice(value, field.choices, where);
  field.set(object, value, where);
}

/// The fields of T in the order of their names. Specialised beside each reflected struct.
template <class T>
std::span<const Field<T>> fields();

/// make_field<&ModelConfig::num_layers>("num_layers", bits)
template <auto Member>
constexpr auto make_field(std::string_view name, uint32_t providers) {
  return [&]<class T, class V>(V T::*) {
    return Field<T>{
        name, providers, [](const T& object) { return Codec<V>::encode(object.*Member); },
        [](T& object, const Yaml& node, std::string_view where) { object.*Member = decode<V>(node, where); },
        [] { return Codec<V>::expects(); }};
  }(Member);
}

/// The field of this name; nullptr when T has none.
template <class T>
const Field<T>* find_field(std::string_view name) {
  std::span<const Field<T>> all = fields<T>();
  auto at = std::lower_bound(all.begin(), all.end(), name,
                             [](const Field<T>& field, std::string_view wanted) { return field.name < wanted; });
  return at != all.end() && at->name == name ? &*at : nullptr;
}

/// "layernorm_eps is no key of model; did you mean layernorm_epsilon?"
[[noreturn]] void throw_unknown_key(std::string_view key, std::string_view of, std::span<const std::string> known);

/// "a.b.c" -> "a", "b.c"; UserError for an empty word.
std::pair<std::string_view, std::string_view> split_path(std::string_view path);
/// The node at a dotted path inside a tree of mappings; UserError that names the nearest key when there is none.
const Yaml& node_at(const Yaml& root, std::string_view path, std::string_view of);
/// Replaces the node at a path that exists.
void set_node(Yaml& root, std::string_view path, Yaml value, std::string_view of);

/// The same; UserError as throw_unknown_key when T has none.
template <class T>
const Field<T>& field_at(std::string_view name, std::string_view of) {
  if (const Field<T>* field = find_field<T>(name)) return *field;
  std::vector<std::string> known;
  for (const Field<T>& field : fields<T>()) known.emplace_back(field.name);
  throw_unknown_key(name, of, known);
}

/// The value at a dotted path: "layernorm_epsilon", "init_method.std".
template <class T>
Yaml get_path(const T& object, std::string_view path, std::string_view of) {
  const auto [head, rest] = split_path(path);
  Yaml value = field_at<T>(head, of).get(object);
  if (rest.empty()) return value;
  return node_at(value, rest, std::string(of) + "." + std::string(head));
}

/// Sets the value at a dotted path. Unknown keys and wrong types are UserErrors that name the key.
template <class T>
void set_path(T& object, std::string_view path, Yaml value, std::string_view of) {
  const auto [head, rest] = split_path(path);
  const Field<T>& field = field_at<T>(head, of);
  const std::string where = std::string(of) + "." + std::string(head);
  if (!rest.empty()) {
    Yaml whole = field.get(object);
    set_node(whole, rest, std::move(value), where);
    value = std::move(whole);
  }
  field.set(object, value, where);
}

}  // namespace viaduct::config
