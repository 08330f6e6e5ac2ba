// viaduct finetune: trains a model, or an adapter of it, on instructions or conversations.
#pragma once

#include "cli/train/run_config.h"

namespace viaduct::cli {

struct FinetuneFlags : RunConfigFlags {
  static constexpr const char* kName = "finetune";
  static constexpr const char* kText = "Train a model, or an adapter of it, on instructions or conversations";

  std::string adapter_folder;

  void add_to(CLI::App& command) {
    RunConfigFlags::add_to(command);
    command
        .add_option("--adapter-dir", adapter_folder,
                    "With a section peft: the PEFT folder that the adapter is written to at the end")
        ->type_name("DIR");
    command.footer(
        "viaduct finetune --config-file run.yaml --adapter-dir adapter checkpoint.pretrained_checkpoint=MODEL\n"
        "viaduct finetune --recipe NAME checkpoint.pretrained_checkpoint=MODEL dataset.dataset_root=FOLDER");
  }
};

/// In viaduct-train.
int run(const FinetuneFlags& options);

}  // namespace viaduct::cli
