// viaduct roundtrip: a model into the live shards of a parallel layout, and back out of them.
#pragma once

#include <string>

#include "cli/options.h"

namespace viaduct::cli {

struct RoundtripOptions {
  static constexpr const char* kName = "roundtrip";
  static constexpr const char* kText = "Load a model into live shards, export it from them, and compare every bit";

  std::string model;
  LayoutFlags layout;
  std::string dtype;
  std::string save;
  bool cpu = false;

  void add_to(CLI::App& command) {
    command
        .add_option("MODEL", model, "Hugging Face folder or hub name (org/name), GGUF file or Megatron checkpoint")
        ->required();
    layout.add_to(command);
    add_dtype(command, dtype);
    command.add_option("--save", save, "Also save the live model as a Hugging Face folder")->type_name("HF_DIR");
    command.add_flag("--cpu", cpu, "Keep the model in the machine's memory where there are GPUs");
    command.footer("torchrun --no-python --nproc-per-node 4 viaduct roundtrip MODEL --tp 2 --pp 2");
  }
};

/// In viaduct-train.
int run(const RoundtripOptions& options);

}  // namespace viaduct::cli
