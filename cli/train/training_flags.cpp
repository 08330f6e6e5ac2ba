#include "cli/train/training_flags.h"

#include <fmt/format.h>

#include <cstdio>

#include "cli/command.h"
#include "viaduct/config/overrides.h"
#include "viaduct/nn/agree.h"
#include "viaduct/parallel/world.h"
#include "viaduct/training/setup.h"

namespace viaduct::cli {

namespace {

config::ConfigContainer read_config(const TrainingFlags& flags) {
  VIADUCT_USER_CHECK(!flags.config_file.empty() || !flags.overrides.empty(),
                     "no configuration: give --config-file FILE, or section.field=value");
  config::ConfigContainer config;
  const auto file = flags.config_file.empty() ? std::nullopt : std::optional<Path>(flags.config_file);
  config::process_config_with_overrides(config, file, flags.overrides);
  return config;
}

}  // namespace

int run_training(const TrainingFlags& flags,
                 const std::function<void(const config::ConfigContainer& config, parallel::ProcessWorld& world,
                                          const training::SetupOptions& setup)>& train) {
  const config::ConfigContainer config = read_config(flags);
  if (flags.print_config) {
    fmt::print("{}", config.print_yaml());
    return kDone;
  }
  const auto minutes = std::chrono::minutes(config.dist.distributed_timeout_minutes);
  parallel::ProcessWorld world(
      {.device = flags.cpu ? parallel::DeviceChoice::kCpu : parallel::DeviceChoice::kAuto, .timeout = minutes});
  training::SetupOptions setup;
  setup.print = [](const std::string& line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
  try {
    train(config, world, setup);
  } catch (const nn::RankFailed&) {
    if (world.rank() == 0) throw;
    return kUserMistake;  // the rank that failed and the first one tell why
  }
  return kDone;
}

}  // namespace viaduct::cli
