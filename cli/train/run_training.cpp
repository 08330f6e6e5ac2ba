#include "cli/train/run_training.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "cli/command.h"
#include "viaduct/nn/agree.h"

namespace viaduct::cli {

int run_training(const RunConfigFlags& flags,
                 const std::function<void(const config::ConfigContainer& config, parallel::ProcessWorld& world,
                                          const training::SetupOptions& setup)>& train,
                 const std::function<void(const config::ConfigContainer& config)>& check) {
  const config::ConfigContainer config = read_run_config(flags);
  if (flags.dry_run && check) check(config);
  if (print_only(flags, config)) return kDone;
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
