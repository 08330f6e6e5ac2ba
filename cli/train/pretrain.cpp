#include "cli/train/pretrain.h"

#include "cli/train/run_training.h"
#include "viaduct/training/pretrain.h"

namespace viaduct::cli {

int run(const PretrainFlags& options) {
  return run_training(options, [](const config::ConfigContainer& config, parallel::ProcessWorld& world,
                                  const training::SetupOptions& setup) {
    training::pretrain(config, world, training::gpt_forward_step, {}, setup);
  });
}

}  // namespace viaduct::cli
