#include "cli/train/pretrain.h"

#include <fmt/format.h>

#include <cstdio>

#include "cli/command.h"
#include "viaduct/config/overrides.h"
#include "viaduct/nn/agree.h"
#include "viaduct/parallel/world.h"
#include "viaduct/training/pretrain.h"

namespace viaduct::cli {

namespace {

config::ConfigContainer read_config(const PretrainFlags& options) {
  VIADUCT_USER_CHECK(!options.config_file.empty() || !options.overrides.empty(),
                     "no configuration: give --config-file FILE, or section.field=value");
  config::ConfigContainer config;
  const auto file = options.config_file.empty() ? std::nullopt : std::optional<Path>(options.config_file);
  config::process_config_with_overrides(config, file, options.overrides);
  return config;
}

}  // namespace

int run(const PretrainFlags& options) {
  const config::ConfigContainer config = read_config(options);
  if (options.print_config) {
    fmt::print("{}", config.print_yaml());
    return kDone;
  }
  const auto minutes = std::chrono::minutes(config.dist.distributed_timeout_minutes);
  parallel::ProcessWorld world(
      {.device = options.cpu ? parallel::DeviceChoice::kCpu : parallel::DeviceChoice::kAuto, .timeout = minutes});
  training::SetupOptions setup;
  setup.print = [](const std::string& line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
  try {
    training::pretrain(config, world, training::gpt_forward_step, {}, setup);
  } catch (const nn::RankFailed&) {
    if (world.rank() == 0) throw;
    return kUserMistake;  // the rank that failed and the first one tell why
  }
  return kDone;
}

}  // namespace viaduct::cli
