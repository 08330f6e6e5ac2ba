#include "viaduct/config/reflection.h"

#include <fmt/ranges.h>

#include "viaduct/core/strings.h"

namespace viaduct::config {

void throw_unknown_key(std::string_view key, std::string_view of, std::span<const std::string> known) {
  const std::optional<std::string> near = nearest(key, known);
  throw UserError(fmt::format("'{}' is no key of {}{}", key, of,
                              near ? fmt::format("; did you mean '{}'?", *near) : std::string()));
}

void check_choice(const Yaml& value, std::string_view choices, std::string_view where) {
  if (choices.empty() || value.is_null()) return;
  if (!value.is_string() && !value.is_int()) return;  // the field's type says what is wrong
  const std::string found = value.is_string() ? value.as_string() : std::to_string(value.as_int());
  std::vector<std::string> known;
  for (size_t at = 0; at <= choices.size();) {
    const size_t end = std::min(choices.find(' ', at), choices.size());
    known.emplace_back(choices.substr(at, end - at));
    if (found == known.back()) return;
    at = end + 1;
  }
  const std::optional<std::string> near = nearest(found, known);
  throw UserError(fmt::format("{}: {} is none of {}{}", where, value.describe(), fmt::join(known, ", "),
                              near ? fmt::format("; did you mean '{}'?", *near) : std::string()));
}

std::pair<std::string_view, std::string_view> split_path(std::string_view path) {
  const size_t dot = path.find('.');
  const std::string_view head = path.substr(0, dot);
  const bool ends_in_dot = dot != std::string_view::npos && dot + 1 == path.size();
  VIADUCT_USER_CHECK(!head.empty() && !ends_in_dot, "'{}' is no dotted path of keys", path);
  return {head, dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1)};
}

const Yaml& node_at(const Yaml& root, std::string_view path, std::string_view of) {
  const auto [head, rest] = split_path(path);
  VIADUCT_USER_CHECK(root.is_mapping(), "{} is {} and has no key '{}'", of, root.describe(), head);
  const Yaml* node = root.find(head);
  if (!node) {
    std::vector<std::string> known;
    for (const Yaml::Member& member : root.members())
      if (member.first.is_string()) known.push_back(member.first.as_string());
    throw_unknown_key(head, of, known);
  }
  return rest.empty() ? *node : node_at(*node, rest, fmt::format("{}.{}", of, head));
}

void set_node(Yaml& root, std::string_view path, Yaml value, std::string_view of) {
  const_cast<Yaml&>(node_at(root, path, of)) = std::move(value);
}

}  // namespace viaduct::config
