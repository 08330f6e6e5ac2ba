// What of a configuration no field has, in the sections and in their parts.
#include "viaduct/config/config_container.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

using Found = std::vector<UnknownKey>;

void add(const Yaml& unknown, const std::string& path, std::vector<std::string> known, Found& found) {
  for (const Yaml::Member& member : unknown.members()) {
    const std::string name = member.first.is_string() ? member.first.as_string() : emit_yaml(member.first);
    found.push_back({path.empty() ? name : path + "." + name, known});
  }
}

#define SECTION(Type, target, classes) void collect(const Type& section, const std::string& path, Found& found);
#define F(...)
#define C(...)
#define O(...)
#define END
#include "viaduct/config/section_groups.inc"
#include "viaduct/config/sft_parts.inc"
#undef SECTION
#undef F
#undef C
#undef O
#undef END

/// Of a field that is a section itself, or may be one.
template <class T>
void collect_part(const T& part, const std::string& path, Found& found) {
  if constexpr (Section<T>) collect(part, path, found);
}
template <class... Ts>
void collect_part(const std::variant<Ts...>& part, const std::string& path, Found& found) {
  std::visit([&](const auto& value) { collect_part(value, path, found); }, part);
}
template <class T>
void collect_part(const std::optional<T>& part, const std::string& path, Found& found) {
  if (part) collect_part(*part, path, found);
}

#define SECTION(Type, target, classes)                                       \
  void collect(const Type& section, const std::string& path, Found& found) { \
    if (!section.unknown.members().empty()) add(section.unknown, path, field_names(section), found);
#define F(type, name, ...) collect_part(section.name, path + "." #name, found);
#define C(...)
#define O(...)
#define END }
#include "viaduct/config/section_groups.inc"
#include "viaduct/config/sft_parts.inc"
#undef SECTION
#undef F
#undef C
#undef O
#undef END

}  // namespace

std::vector<UnknownKey> unknown_keys(const ConfigContainer& config) {
  Found found;
  std::vector<std::string> sections;
  for (const ContainerSection& section : container_sections()) sections.emplace_back(section.name);
  add(config.unknown, "", sections, found);
#define S(type, name, ...) collect_part(config.name, #name, found);
#include "viaduct/config/container_sections.inc"
#undef S
  add(config.model.unknown, "model", container_section("model").keys(config), found);
  if (config.model.nested)
    add(config.model.nested->unknown, "model.transformer", container_section("model").keys(config), found);
  return found;
}

void refuse_unknown_keys(const ConfigContainer& config, std::string_view origin, const YamlLines* lines) {
  std::string message;
  for (const UnknownKey& key : unknown_keys(config)) {
    const size_t dot = key.path.rfind('.');
    const std::string name = key.path.substr(dot == std::string::npos ? 0 : dot + 1);
    const std::optional<std::string> near = nearest(name, key.known);
    if (!message.empty()) message += "\n";
    message += fmt::format("{}: {}{}", key_place(origin, key.path, lines),
                           dot == std::string::npos ? "there is no such section" : "there is no such key",
                           near ? fmt::format("; did you mean '{}'?", *near) : std::string());
  }
  if (!message.empty()) throw UserError(message);
}

}  // namespace viaduct::config
