// viaduct pretrain: trains a model from a configuration.
#pragma once

#include "cli/train/training_flags.h"

namespace viaduct::cli {

struct PretrainFlags {
  static constexpr const char* kName = "pretrain";
  static constexpr const char* kText = "Train a model on text, from nothing or from a checkpoint";

  TrainingFlags training;

  void add_to(CLI::App& command) { training.add_to(command, kName); }
};

/// In viaduct-train.
int run(const PretrainFlags& options);

}  // namespace viaduct::cli
