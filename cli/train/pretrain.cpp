#include "cli/train/pretrain.h"

#include <fmt/format.h>

#include <cstdio>

#include "cli/command.h"
#include "viaduct/nn/agree.h"
#include "viaduct/parallel/world.h"
#include "viaduct/training/pretrain.h"

namespace viaduct::cli {

int run(const PretrainFlags& options) {
  const config::ConfigContainer config = read_run_config(options);
  if (print_only(options, config)) return kDone;
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
