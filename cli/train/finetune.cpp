#include "cli/train/finetune.h"

#include "cli/train/run_training.h"
#include "viaduct/training/finetune.h"

namespace viaduct::cli {

int run(const FinetuneFlags& options) {
  return run_training(
      options,
      [&](const config::ConfigContainer& config, parallel::ProcessWorld& world,
          const training::SetupOptions& setup) {
        training::finetune(config, world, training::gpt_forward_step, {}, setup, options.adapter_folder);
      },
      training::check_finetuning);
}

}  // namespace viaduct::cli
