// viaduct pretrain: trains a model from a configuration.
#pragma once

#include "cli/train/run_config.h"

namespace viaduct::cli {

struct PretrainFlags : RunConfigFlags {
  static constexpr const char* kName = "pretrain";
  static constexpr const char* kText = "Train a model on text, from nothing or from a checkpoint";

  void add_to(CLI::App& command) {
    RunConfigFlags::add_to(command);
    command.footer(
        "viaduct pretrain --config-file run.yaml train.train_iters=10 model.tensor_model_parallel_size=2\n"
        "viaduct pretrain --recipe NAME train.train_iters=10 train.global_batch_size=8");
  }
};

/// In viaduct-train.
int run(const PretrainFlags& options);

}  // namespace viaduct::cli
