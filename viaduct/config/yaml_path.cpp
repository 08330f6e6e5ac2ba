#include "viaduct/config/yaml_path.h"

#include <algorithm>
#include <charconv>

#include "viaduct/config/reflection.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

[[noreturn]] void throw_no_key(std::string_view where, std::string_view key, const Yaml& mapping) {
  std::vector<std::string> known;
  for (const Yaml::Member& member : mapping.members())
    if (member.first.is_string()) known.push_back(member.first.as_string());
  const std::optional<std::string> near = nearest(key, known);
  throw UserError(fmt::format("{}: there is no '{}'{}. A + before the override adds it", where, key,
                              near ? fmt::format("; did you mean '{}'?", *near) : std::string()));
}

size_t index_of(std::string_view word, const Yaml& list, bool may_append, std::string_view where) {
  size_t index = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), index);
  const size_t size = list.items().size();
  if (error != std::errc() || end != word.data() + word.size() || index > size || (index == size && !may_append))
    throw UserError(fmt::format("{}: '{}' is no index into {}", where, word, list.describe()));
  return index;
}

}  // namespace

void change_at(Yaml& root, std::string_view path, const PathChange& change, const Yaml& value,
               std::string_view where) {
  const auto [head, rest] = split_path(path);
  if (root.is_null() && change.creates_parts) root = Yaml::mapping();
  if (root.is_sequence()) {
    const size_t index = index_of(head, root, change.may_add && rest.empty() && !change.erase, where);
    std::vector<Yaml>& items = root.items();
    if (!rest.empty()) return change_at(items[index], rest, change, value, fmt::format("{}.{}", where, head));
    if (change.erase) return void(items.erase(items.begin() + static_cast<std::ptrdiff_t>(index)));
    if (index == items.size()) items.emplace_back();
    items[index] = value;
    return;
  }
  VIADUCT_USER_CHECK(root.is_mapping(), "{} is {} and has no '{}'", where, root.describe(), head);
  Yaml* there = root.find(head);
  if (!there && (change.erase || !change.may_add)) throw_no_key(where, head, root);
  if (!rest.empty()) {
    if (!there) there = &root.set(head, Yaml());
    PathChange inside = change;
    inside.creates_parts = change.may_add;
    return change_at(*there, rest, inside, value, fmt::format("{}.{}", where, head));
  }
  if (change.erase) return void(root.erase(head));
  VIADUCT_USER_CHECK(!there || there->is_null() || change.must_exist || !value.is_scalar(),
                     "{}.{}: there is one already; take the + away to change it", where, head);
  root.set(head, there ? deep_merge(*there, value) : value);
}

Yaml deep_merge(const Yaml& base, const Yaml& changes) {
  if (!base.is_mapping() || !changes.is_mapping()) return changes;
  const Yaml *old_class = base.find("_target_"), *new_class = changes.find("_target_");
  if (new_class && !(old_class && *old_class == *new_class)) return changes;
  Yaml out = base;
  for (const Yaml::Member& member : changes.members()) {
    const auto there = std::ranges::find(out.members(), member.first,
                                         [](const Yaml::Member& m) -> const Yaml& { return m.first; });
    if (there == out.members().end()) {
      out.members().push_back(member);
    } else {
      there->second = deep_merge(there->second, member.second);
    }
  }
  return out;
}

}  // namespace viaduct::config
