// What the commands that train do around their training.
#pragma once

#include <functional>

#include "cli/train/run_config.h"
#include "viaduct/parallel/world.h"
#include "viaduct/training/setup.h"

namespace viaduct::cli {

/// Reads the configuration, then prints it (--print-config, --dry-run) or calls `train` on the ranks' world. The
/// exit code. `check`: what `train` refuses by itself, for --dry-run.
int run_training(const RunConfigFlags& flags,
                 const std::function<void(const config::ConfigContainer& config, parallel::ProcessWorld& world,
                                          const training::SetupOptions& setup)>& train,
                 const std::function<void(const config::ConfigContainer& config)>& check = {});

}  // namespace viaduct::cli
