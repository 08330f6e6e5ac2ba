#include "cli/train/run_config.h"

#include <fmt/format.h>

#include "cli/train/dry_run.h"
#include "viaduct/config/overrides.h"
#include "viaduct/core/error.h"
#include "viaduct/parallel/launch.h"
#include "viaduct/recipes/recipe.h"

namespace viaduct::cli {

config::ConfigContainer read_run_config(const RunConfigFlags& flags) {
  VIADUCT_USER_CHECK(!flags.recipe.empty() || !flags.config_file.empty() || !flags.overrides.empty(),
                     "no configuration: give --recipe NAME (viaduct list-recipes), --config-file FILE, or "
                     "section.field=value");
  VIADUCT_USER_CHECK(!flags.world_size || flags.dry_run,
                     "--world-size is for --dry-run; a run has the ranks that it is started with");
  config::ConfigContainer config;
  if (!flags.recipe.empty()) config = recipes::recipe(flags.recipe).make();
  const auto file = flags.config_file.empty() ? std::nullopt : std::optional<Path>(flags.config_file);
  config::process_config_with_overrides(config, file, flags.overrides);
  return config;
}

bool print_only(const RunConfigFlags& flags, const config::ConfigContainer& config) {
  if (flags.dry_run) {
    print_dry_run(config, flags.world_size.value_or(parallel::read_launch().world_size));
  } else if (flags.print_config) {
    fmt::print("{}", config.print_yaml());
  } else {
    return false;
  }
  return true;
}

}  // namespace viaduct::cli
