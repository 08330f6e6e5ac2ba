// viaduct finetune: trains a model, or an adapter of it, on instructions or conversations.
#pragma once

#include "cli/train/training_flags.h"

namespace viaduct::cli {

struct FinetuneFlags {
  static constexpr const char* kName = "finetune";
  static constexpr const char* kText = "Train a model, or an adapter of it, on instructions or conversations";

  TrainingFlags training;
  std::string adapter_folder;

  void add_to(CLI::App& command) {
    training.add_to(command, kName);
    command
        .add_option("--adapter-dir", adapter_folder,
                    "With a section peft: the PEFT folder that the adapter is written to at the end")
        ->type_name("DIR");
  }
};

/// In viaduct-train.
int run(const FinetuneFlags& options);

}  // namespace viaduct::cli
