// Changes to a configuration from outside: a YAML file of sections, and overrides on the command line in Hydra's
// syntax. The command line wins over the file, the file over what the configuration (a recipe's) has.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "viaduct/config/config_container.h"

namespace viaduct::config {

/// One override: "train.train_iters=10", "+dataset.dataset_kwargs.chat=true", "~peft".
struct Override {
  /// kSet changes what there is ("a=1"), kAdd adds what there is not ("+a=1"), kForce does either ("++a=1"),
  /// kDelete takes away ("~a", or "~a=1" if it is 1).
  enum class Action { kSet, kAdd, kForce, kDelete };
  Action action = Action::kSet;
  std::string path;           // "model.cp_comm_type.0": list entries by their index, also read as "cp_comm_type[0]"
  std::optional<Yaml> value;  // none for "~a"
  std::string value_text;     // as it was written
  std::string text;           // the whole override
};

/// Does the word look like an override rather than like a flag or a file: "a=b", "a.b=", "+a.b=c", "~a"?
bool is_override(std::string_view word);
/// UserError "override '...': <what>".
Override parse_override(std::string_view text);

/// Applies one override. Deleting sets a field to null when it may be null, else to its class's default, and takes
/// an entry out of a list or a mapping. Setting `section._target_` changes the class; what both classes have and is
/// no default stays. UserError "override '...': <what>", with the nearest name for an unknown key.
void apply_override(ConfigContainer& config, const Override& override);
/// All of them, those of _target_s first, in their order. UserError that lists every one that cannot be applied.
void apply_overrides(ConfigContainer& config, std::span<const std::string> overrides);

/// Merges a document with some of the sections into the configuration: mappings by their keys, everything else is
/// replaced. UserError "<file>:<line>: section.key: ..." for wrong values; one listing all unknown keys.
void merge_yaml(ConfigContainer& config, const Yaml& document, std::string_view origin,
                const YamlLines* lines = nullptr);
/// The same of a file.
void merge_yaml_file(ConfigContainer& config, const Path& path);

/// Upstream's process_config_with_overrides: the file, then the overrides.
void process_config_with_overrides(ConfigContainer& config, const std::optional<Path>& file,
                                   std::span<const std::string> overrides);

}  // namespace viaduct::config
