// The registry of families, made from the list in viaduct/models/CMakeLists.txt.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "viaduct/models/family.h"

namespace viaduct::models {

/// All families, in the order of the list; behind them those that a program registered.
const std::vector<Family>& families();
/// Adds a family of one's own, at the program's start: references to families are invalid afterwards. Its texts
/// must outlive the program's work. UserError when a family has its name or its architecture already, or when one
/// of the functions that are always set is missing.
void register_family(Family family);

/// By the registry's name; UserError with the nearest name when there is none.
const Family& family_named(std::string_view name);
/// By config.json's architecture, else its model_type; nullptr when none knows it.
const Family* find_family(const HfConfig& config);
/// As find_family; UserError that lists the supported architectures.
const Family& family_of(const HfConfig& config);
/// By a run_config.yaml's model section. UserError when no family has such a provider.
const Family& family_of(const config::ModelConfig& provider);

/// config.json -> ArchSpec, checked.
ArchSpec read_arch(const HfConfig& config);
/// run_config.yaml's model section -> ArchSpec, checked.
ArchSpec read_arch(const config::ModelConfig& provider);
/// ArchSpec -> the provider that upstream's import would write. `config` is the source's config.json, which knows
/// more than ArchSpec; without one, what hf_config_for writes.
config::ModelConfig provider_for(const ArchSpec& arch, const std::optional<Json>& config = std::nullopt);
/// ArchSpec -> a config.json that transformers reads, in transformers 5's form with the old keys beside.
Json hf_config_for(const ArchSpec& arch);
/// The same, with what only the provider knows.
Json hf_config_for(const ArchSpec& arch, const config::ModelConfig& provider);

}  // namespace viaduct::models
