// From a configuration as written to one that a run can use: precision and overlap settings applied, defaults
// derived, everything checked against everything else.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/config/config_container.h"
#include "viaduct/config/violations.h"

namespace viaduct::config {

/// What finalize must know of the run beside the configuration.
struct RunFacts {
  int64_t world_size = 1;
  /// The value of an environment variable; the process's own unless set.
  std::function<std::optional<std::string>(const std::string& name)> variable;
  bool check_paths = true;         // must checkpoints that are read exist? (not for a plan made elsewhere)
  bool only_what_is_built = true;  // are mechanisms that training does not have violations? (mechanisms.h)
};

/// What finalize did, for the log.
struct FinalizeReport {
  std::vector<std::string> changes;   // "Overwrote model.bf16 False -> True"
  std::vector<std::string> warnings;  // what works but was hardly meant
};

/// Upstream's runtime_config_update: mixed precision over model, optimizer and ddp; data_parallel_size; overlap of
/// communication; then every section's finalize and the checks between sections. Sets what follows (batch sizes,
/// scheduler steps, validation's sizes, split matrix ...). Called twice it leaves the same configuration. UserError
/// that lists every violation with the values and a fix.
FinalizeReport finalize_config(ConfigContainer& config, const RunFacts& facts);

/// env_vars as strings, as Python's str() makes them; UserError for a value that is no scalar.
std::vector<std::pair<std::string, std::string>> environment_defaults(const ConfigContainer& config);

}  // namespace viaduct::config
