// ConfigContainer: everything that a training run is configured by, that is run_config.yaml as a whole. finalize.h
// makes it ready for a run, overrides.h changes it from a command line.
#pragma once

#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "viaduct/config/model_config.h"
#include "viaduct/config/sections.h"

namespace viaduct::config {

/// What to do with keys that no field has.
enum class UnknownKeys {
  kRefuse,  // a UserError that lists them all, each with the nearest name
  kKeep,    // they stay in the sections' `unknown` and are written back: files of other releases
};

/// One member for each entry of container_sections.inc, by upstream's names.
struct ConfigContainer {
  std::string target = "megatron.bridge.training.config.ConfigContainer";

#define S(type, name, ...) type name = __VA_ARGS__;
#include "viaduct/config/container_sections.inc"
#undef S

  /// Sections that a file had as null although upstream's container always has them (`train: null` in what an
  /// import writes). Their members have the defaults.
  std::set<std::string, std::less<>> null_sections;
  /// Sections of the file that no member is for.
  Yaml unknown = Yaml::mapping();
  /// Set by finalize: ranks / (tensor * pipeline * context parallel size). Not written.
  int64_t data_parallel_size = 0;

  /// A whole run_config.yaml; sections that it leaves out have their defaults. UserError "<file>:<line>:
  /// section.key: expected ..., found ...".
  static ConfigContainer from_yaml(const Path& path, UnknownKeys unknown = UnknownKeys::kRefuse);
  /// The same of a document in memory; `origin` names it in messages, `lines` are its keys' lines.
  static ConfigContainer from_dict(const Yaml& document, std::string_view origin,
                                   UnknownKeys unknown = UnknownKeys::kRefuse, const YamlLines* lines = nullptr);

  /// The document that upstream's ConfigContainer.to_dict makes, with its _target_s.
  Yaml to_dict() const;
  /// The text that upstream's to_yaml writes.
  std::string print_yaml() const;
  /// print_yaml() into a file, which appears complete or not at all.
  void to_yaml(const Path& path) const;
};

/// Messages' place of a key: "run.yaml:12: train.train_iters", without lines "run.yaml: train.train_iters".
std::string key_place(std::string_view origin, std::string_view path, const YamlLines* lines);

/// Begins a message about a key of a section: "run.yaml:12: train.train_iters" of "train_iters".
using KeyPlaces = std::function<std::string(std::string_view key)>;

/// A member of ConfigContainer by its name.
struct ContainerSection {
  std::string_view name;
  bool nullable;  // may there be none?
  /// The section as it is written; null when there is none.
  Yaml (*get)(const ConfigContainer&);
  /// The whole section anew; null for none. UserErrors start with `origin`.
  void (*set)(ConfigContainer&, const Yaml& node, std::string_view origin);
  /// Sets the fields that a mapping has and leaves the others; keys without a field go to the section's `unknown`.
  /// A section that there is not begins with its defaults, another _target_ with what both classes have.
  void (*merge)(ConfigContainer&, const Yaml& node, const KeyPlaces& places);
  /// The names of the fields that the section's class has now; empty when none are fixed.
  std::vector<std::string> (*keys)(const ConfigContainer&);
  /// What one of these fields takes: "an integer or null"; empty when the section has no such field.
  std::string (*expects)(const ConfigContainer&, std::string_view key);
};

/// All of them, in the order of their names.
std::span<const ContainerSection> container_sections();
/// The section of this name; UserError with the nearest name.
const ContainerSection& container_section(std::string_view name);

/// The value at "section.field" or deeper ("dataset.offline_packing_specs.packed_sequence_size"); null inside what
/// is null. UserError with the nearest name for a key that there is not.
Yaml value_at(const ConfigContainer& config, std::string_view path);

/// A key that no field has.
struct UnknownKey {
  std::string path;                // "train.train_itres"
  std::vector<std::string> known;  // the keys that there are
};
/// All of them.
std::vector<UnknownKey> unknown_keys(const ConfigContainer& config);
/// UserError listing unknown_keys, each with its place and the nearest name, if there are any.
void refuse_unknown_keys(const ConfigContainer& config, std::string_view origin, const YamlLines* lines = nullptr);

}  // namespace viaduct::config
