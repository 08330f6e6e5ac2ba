#include "cli/train/run_config.h"

#include <fmt/format.h>

#include "cli/train/dry_run.h"
#include "viaduct/config/overrides.h"
#include "viaduct/core/error.h"
#include "viaduct/parallel/launch.h"
#include "viaduct/recipes/recipe.h"

namespace viaduct::cli {

namespace {

// A folder of the user's own takes the place of the data set of the hub that a fine-tuning recipe names.
void prefer_own_data(config::ConfigContainer& config, const config::ConfigContainer& recipe) {
  const auto* theirs = recipe.dataset ? std::get_if<config::GPTSFTDatasetConfig>(&*recipe.dataset) : nullptr;
  auto* ours = config.dataset ? std::get_if<config::GPTSFTDatasetConfig>(&*config.dataset) : nullptr;
  if (!theirs || !theirs->hf_dataset || !ours || !ours->dataset_root || !ours->hf_dataset) return;
  ours->hf_dataset.reset();
  ours->hf_validation_dataset.reset();
  ours->hf_test_dataset.reset();
  ours->hf_validation_proportion.reset();
}

}  // namespace

config::ConfigContainer read_run_config(const RunConfigFlags& flags) {
  VIADUCT_USER_CHECK(!flags.recipe.empty() || !flags.config_file.empty() || !flags.overrides.empty(),
                     "no configuration: give --recipe NAME (viaduct list-recipes), --config-file FILE, or "
                     "section.field=value");
  VIADUCT_USER_CHECK(!flags.world_size || flags.dry_run,
                     "--world-size is for --dry-run; a run has the ranks that it is started with");
  config::ConfigContainer config;
  if (!flags.recipe.empty()) config = recipes::recipe(flags.recipe).make();
  const config::ConfigContainer recipe = config;
  const auto file = flags.config_file.empty() ? std::nullopt : std::optional<Path>(flags.config_file);
  config::process_config_with_overrides(config, file, flags.overrides);
  prefer_own_data(config, recipe);
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
