// Changes inside a YAML document at a dotted path, for overrides.
#pragma once

#include <string_view>

#include "viaduct/config/yaml.h"

namespace viaduct::config {

/// How a change meets what is there.
struct PathChange {
  bool may_add = false;        // keys that there are not, and an entry behind the last of a list
  bool must_exist = true;      // else what is there already is an error, unless it is null
  bool erase = false;          // take it away; `value` does not count
  bool creates_parts = false;  // null on the way becomes a mapping
};

/// Changes the node at `path` below `root`: keys of mappings, indices of lists. UserError "<where>.<path>: ..."
/// with the nearest key for one that there is not.
void change_at(Yaml& root, std::string_view path, const PathChange& change, const Yaml& value,
               std::string_view where);

/// `base` with the members of `changes`: mappings of the same class are merged key by key, everything else is
/// replaced.
Yaml deep_merge(const Yaml& base, const Yaml& changes);

}  // namespace viaduct::config
