#include "cli/train/run_training.h"

#include <fmt/format.h>
#include <malloc.h>

#include <chrono>
#include <cstdio>
#include <limits>

#include "cli/command.h"
#include "viaduct/nn/agree.h"

namespace viaduct::cli {

namespace {

// Every iteration wants the same memory again. Given back to the kernel after each use, as large blocks are by
// default, it comes back as pages that are cleared anew: about a seventh of a step on the CPU.
void keep_freed_memory() {
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

}  // namespace

int run_training(const RunConfigFlags& flags,
                 const std::function<void(const config::ConfigContainer& config, parallel::ProcessWorld& world,
                                          const training::SetupOptions& setup)>& train,
                 const std::function<void(const config::ConfigContainer& config)>& check) {
  const config::ConfigContainer config = read_run_config(flags);
  if (flags.dry_run && check) check(config);
  if (print_only(flags, config)) return kDone;
  keep_freed_memory();
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
