#include "viaduct/config/config_container.h"

#include <algorithm>

#include "viaduct/config/section_access.h"
#include "viaduct/config/upstream_values.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

constexpr std::string_view kTargetKey = "_target_";

template <auto Member>
constexpr ContainerSection make_section(std::string_view name) {
  return [&]<class T>(T ConfigContainer::*) {
    using Access = detail::Access<T>;
    return ContainerSection{
        name,
        Access::kNullable,
        [](const ConfigContainer& config) { return Access::get(config.*Member); },
        [](ConfigContainer& config, const Yaml& node, std::string_view where) {
          Access::set(config.*Member, node, where);
        },
        [](ConfigContainer& config, const Yaml& node, const KeyPlaces& places) {
          Access::merge(config.*Member, node, places);
        },
        [](const ConfigContainer& config) { return Access::keys(config.*Member); },
        [](const ConfigContainer& config, std::string_view key) { return Access::expects(config.*Member, key); },
    };
  }(Member);
}

/// The node at a path inside a section's document; nullptr inside what is null.
const Yaml* find_at(const Yaml& node, std::string_view path, const std::string& of) {
  if (node.is_null()) return nullptr;
  const auto [head, rest] = split_path(path);
  const Yaml& child = node_at(node, head, of);
  return rest.empty() ? &child : find_at(child, rest, fmt::format("{}.{}", of, head));
}

}  // namespace

std::span<const ContainerSection> container_sections() {
  static constexpr ContainerSection kSections[] = {
#define S(type, name, ...) make_section<&ConfigContainer::name>(#name),
#include "viaduct/config/container_sections.inc"
#undef S
  };
  return kSections;
}

const ContainerSection& container_section(std::string_view name) {
  std::vector<std::string> known;
  for (const ContainerSection& section : container_sections()) {
    if (section.name == name) return section;
    known.emplace_back(section.name);
  }
  const std::optional<std::string> near = nearest(name, known);
  throw UserError(fmt::format("'{}' is no section of the configuration{}", name,
                              near ? fmt::format("; did you mean '{}'?", *near) : std::string()));
}

std::string key_place(std::string_view origin, std::string_view path, const YamlLines* lines) {
  if (lines)
    if (const auto line = lines->find(path); line != lines->end())
      return fmt::format("{}:{}: {}", origin, line->second, path);
  return fmt::format("{}: {}", origin, path);
}

ConfigContainer ConfigContainer::from_dict(const Yaml& written, std::string_view origin, UnknownKeys unknown,
                                           const YamlLines* lines) {
  VIADUCT_USER_CHECK(written.is_mapping(), "{}: {}, not the mapping of sections that a configuration is", origin,
                     written.describe());
  const Yaml document = with_declared_types(written);
  check_keys(document, [&](std::string_view key) { return key_place(origin, key, lines); });
  ConfigContainer config;
  if (const std::string* target = target_in(document)) config.target = *target;
  for (const auto& [key, node] : document.members()) {
    const std::string& name = key.as_string();
    if (name == kTargetKey) continue;
    const auto all = container_sections();
    const auto section =
        std::find_if(all.begin(), all.end(), [&](const ContainerSection& s) { return s.name == name; });
    if (section == all.end()) {
      config.unknown.set(name, node);
      continue;
    }
    const std::string where = key_place(origin, name, lines);
    if (node.is_null()) {
      if (section->nullable) {
        section->set(config, node, where);
      } else {
        config.null_sections.insert(name);
      }
      continue;
    }
    if (name == "model" || !node.is_mapping()) {
      section->set(config, node, where);
      continue;
    }
    section->merge(config, node, [&](std::string_view field) {
      return key_place(origin, fmt::format("{}.{}", name, field), lines);
    });
  }
  if (unknown == UnknownKeys::kRefuse) refuse_unknown_keys(config, origin, lines);
  return config;
}

ConfigContainer ConfigContainer::from_yaml(const Path& path, UnknownKeys unknown) {
  YamlLines lines;
  const Yaml document = read_yaml_file(path, {}, &lines);
  return from_dict(document, path.string(), unknown, &lines);
}

Yaml ConfigContainer::to_dict() const {
  Yaml out = Yaml::mapping({{kTargetKey, target}});
  for (const ContainerSection& section : container_sections())
    out.members().emplace_back(section.name, null_sections.contains(section.name) ? Yaml() : section.get(*this));
  for (const Yaml::Member& member : unknown.members()) out.members().push_back(member);
  return out;
}

std::string ConfigContainer::print_yaml() const { return emit_yaml(to_dict()); }

void ConfigContainer::to_yaml(const Path& path) const { write_file_atomically(path, print_yaml()); }

Yaml value_at(const ConfigContainer& config, std::string_view path) {
  const auto [head, rest] = split_path(path);
  const Yaml section = container_section(head).get(config);
  if (rest.empty()) return section;
  const Yaml* value = find_at(section, rest, std::string(head));
  return value ? *value : Yaml();
}

}  // namespace viaduct::config
