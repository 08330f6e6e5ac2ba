// How each type of a member of ConfigContainer is read, written and merged. Part of config_container.cpp.
#pragma once

#include "viaduct/config/config_container.h"
#include "viaduct/config/mixed_precision.h"

namespace viaduct::config::detail {

template <class T>
struct Access;

template <Section T>
struct Access<T> {
  static constexpr bool kNullable = false;
  static Yaml get(const T& section) { return section_to_yaml(section); }
  static void set(T& section, const Yaml& node, std::string_view where) { section = decode<T>(node, where); }
  static void merge(T& section, const Yaml& node, const KeyPlaces& places) { read_section(section, node, places); }
  static std::vector<std::string> keys(const T& section) { return field_names(section); }
  static std::string expects(const T& section, std::string_view name) {
    const Field<T>* field = find_field<T>(name);
    return field && has_field(section, *field) ? field->expects() : std::string();
  }
};

template <>
struct Access<Yaml> {
  static constexpr bool kNullable = false;
  static Yaml get(const Yaml& section) { return section; }
  static void set(Yaml& section, const Yaml& node, std::string_view where) {
    if (!node.is_mapping()) throw_wrong_type(where, "a mapping", node);
    section = node;
  }
  static void merge(Yaml& section, const Yaml& node, const KeyPlaces& places) {
    check_keys(node, places);
    for (const auto& [key, value] : node.members()) section.set(key.as_string(), value);
  }
  static std::vector<std::string> keys(const Yaml&) { return {}; }
  static std::string expects(const Yaml&, std::string_view) { return {}; }
};

template <>
struct Access<ModelConfig> {
  static constexpr bool kNullable = false;
  static Yaml get(const ModelConfig& model) { return to_yaml(model); }
  static void set(ModelConfig& model, const Yaml& node, std::string_view where) {
    // model_section names the section itself.
    constexpr std::string_view kEnd = ": model";
    model = model_section(node, where.substr(0, where.size() - kEnd.size()));
  }
  static bool has_field(const ModelConfig& model, const Field<ModelConfig>& field) {
    return (field.providers & provider_bits(model.target)) != 0 ||
           model.beyond_provider.contains(std::string(field.name));
  }
  static void merge(ModelConfig& model, const Yaml& node, const KeyPlaces& places) {
    check_keys(node, places);
    if (const std::string* target = target_in(node)) model.target = full_target(*target, kGptProvider);
    for (const auto& [key, value] : node.members()) {
      const std::string& name = key.as_string();
      if (name == "_target_") continue;
      const Field<ModelConfig>* field = find_field<ModelConfig>(name);
      if (field && has_field(model, *field)) {
        set_field(model, *field, value, places(name));
      } else {
        model.unknown.set(name, value);
      }
    }
  }
  static std::vector<std::string> keys(const ModelConfig& model) {
    std::vector<std::string> names;
    for (const Field<ModelConfig>& field : fields<ModelConfig>())
      if (has_field(model, field)) names.emplace_back(field.name);
    return names;
  }
  static std::string expects(const ModelConfig& model, std::string_view name) {
    const Field<ModelConfig>* field = find_field<ModelConfig>(name);
    return field && has_field(model, *field) ? field->expects() : std::string();
  }
};

/// One of several classes, told apart by _target_.
template <class... Ts>
struct Access<std::variant<Ts...>> {
  using Value = std::variant<Ts...>;
  static Yaml get(const Value& section) { return Codec<Value>::encode(section); }
  static void set(Value& section, const Yaml& node, std::string_view where) {
    section = decode<Value>(node, where);
  }

  static void merge(Value& section, const Yaml& node, const KeyPlaces& places) {
    check_keys(node, places);
    const std::string* target = target_in(node);
    if (target && last_word(*target) != last_word(target_in_section(section)))
      switch_class(section, *target, places);
    std::visit([&](auto& alternative) { merge_into(alternative, node, places); }, section);
  }

  static std::vector<std::string> keys(const Value& section) {
    return std::visit(
        [](const auto& alternative) -> std::vector<std::string> {
          using T = std::decay_t<decltype(alternative)>;
          if constexpr (Section<T>) {
            return field_names(alternative);
          } else {
            return {};
          }
        },
        section);
  }

  static std::string expects(const Value& section, std::string_view name) {
    return std::visit(
        [&](const auto& alternative) -> std::string {
          using T = std::decay_t<decltype(alternative)>;
          if constexpr (Section<T>) {
            return Access<T>::expects(alternative, name);
          } else {
            return {};
          }
        },
        section);
  }

 private:
  static std::string target_in_section(const Value& section) {
    return std::visit(
        [](const auto& alternative) -> std::string {
          using T = std::decay_t<decltype(alternative)>;
          if constexpr (Section<T>) {
            return alternative.target;
          } else if constexpr (std::is_same_v<T, ObjectNode>) {
            return alternative.node.at("_target_").as_string();
          } else {
            return {};
          }
        },
        section);
  }

  /// Another class with the values of the fields that both have, where they are no defaults.
  static void switch_class(Value& section, const std::string& target, const KeyPlaces& places) {
    Yaml fresh = Yaml::mapping({{"_target_", target}});
    Value other = decode<Value>(fresh, places("_target_"));
    const Yaml old = get(section), old_defaults = get(defaults_of(section)), names = get(other);
    Yaml kept = Yaml::mapping();
    for (const auto& [key, value] : old.members()) {
      const Yaml* was = old_defaults.find(key.as_string());
      if (key.as_string() != "_target_" && names.contains(key.as_string()) && !(was && *was == value))
        kept.set(key.as_string(), value);
    }
    std::visit([&](auto& alternative) { merge_into(alternative, kept, places); }, other);
    section = std::move(other);
  }

  static Value defaults_of(const Value& section) {
    return std::visit(
        [](const auto& alternative) -> Value {
          using T = std::decay_t<decltype(alternative)>;
          T fresh{};
          if constexpr (Section<T>) {
            fresh.target = alternative.target;
          } else if constexpr (std::is_same_v<T, ObjectNode>) {
            fresh.node = Yaml::mapping({{"_target_", alternative.node.at("_target_")}});
          }
          return fresh;
        },
        section);
  }

  template <class T>
  static void merge_into(T& alternative, const Yaml& node, const KeyPlaces& places) {
    if constexpr (Section<T>) {
      read_section(alternative, node, places);
    } else if constexpr (std::is_same_v<T, ObjectNode>) {
      Access<Yaml>::merge(alternative.node, node, places);
    }
  }
};

/// mixed_precision: a name becomes the recipe's settings when one of them is set.
template <>
struct Access<MixedPrecision> {
  static Yaml get(const MixedPrecision& section) { return Codec<MixedPrecision>::encode(section); }
  static void set(MixedPrecision& section, const Yaml& node, std::string_view where) {
    section = decode<MixedPrecision>(node, where);
    if (const auto* name = std::get_if<std::string>(&section)) mixed_precision_recipe(*name);  // is there one?
  }
  static void merge(MixedPrecision& section, const Yaml& node, const KeyPlaces& places) {
    if (const auto* name = std::get_if<std::string>(&section)) section = mixed_precision_recipe(*name);
    auto& settings = std::get<MixedPrecisionConfig>(section);
    read_section(settings, node, places);
    sync_param_gather(settings, node, places("fp8_param"));
  }
  static std::vector<std::string> keys(const MixedPrecision& section) {
    const auto* settings = std::get_if<MixedPrecisionConfig>(&section);
    return field_names(settings ? *settings : MixedPrecisionConfig{});
  }
  static std::string expects(const MixedPrecision&, std::string_view name) {
    return Access<MixedPrecisionConfig>::expects({}, name);
  }
};

template <class T>
struct Access<std::optional<T>> {
  static constexpr bool kNullable = true;
  static Yaml get(const std::optional<T>& section) { return section ? Access<T>::get(*section) : Yaml(); }
  static void set(std::optional<T>& section, const Yaml& node, std::string_view where) {
    section.reset();
    if (node.is_null()) return;
    T value{};
    Access<T>::set(value, node, where);
    section = std::move(value);
  }
  static void merge(std::optional<T>& section, const Yaml& node, const KeyPlaces& places) {
    if (!section) section = begin(node, places);
    Access<T>::merge(*section, node, places);
  }
  static std::vector<std::string> keys(const std::optional<T>& section) {
    if constexpr (Section<T> || std::is_same_v<T, MixedPrecision>) {
      return Access<T>::keys(section ? *section : T{});
    } else {
      return section ? Access<T>::keys(*section) : std::vector<std::string>();
    }
  }
  static std::string expects(const std::optional<T>& section, std::string_view name) {
    return Access<T>::expects(section ? *section : T{}, name);
  }

 private:
  static T begin(const Yaml& node, const KeyPlaces& places) {
    if constexpr (Section<T>) {
      return T{};
    } else if constexpr (std::is_same_v<T, MixedPrecision>) {
      return MixedPrecisionConfig{};
    } else {
      const std::string* target = target_in(node);
      VIADUCT_USER_CHECK(target, "{}: the section is null; set its _target_ first ({})", places("_target_"),
                         Codec<T>::expects());
      return decode<T>(Yaml::mapping({{"_target_", *target}}), places("_target_"));
    }
  }
};

}  // namespace viaduct::config::detail
