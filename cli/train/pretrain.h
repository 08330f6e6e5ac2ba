// viaduct pretrain: trains a model from a configuration.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace viaduct::cli {

struct PretrainFlags {
  static constexpr const char* kName = "pretrain";
  static constexpr const char* kText = "Train a model on text, from nothing or from a checkpoint";

  std::string config_file;
  std::vector<std::string> overrides;
  bool cpu = false;
  bool print_config = false;

  void add_to(CLI::App& command) {
    command.add_option("--config-file", config_file, "YAML with the sections of Megatron Bridge's ConfigContainer")
        ->type_name("FILE");
    command.add_option("OVERRIDE", overrides,
                       "section.field=value, +section.field=value, ~section.field; they win over the file");
    command.add_flag("--cpu", cpu, "Use the CPU even where there are GPUs");
    command.add_flag("--print-config", print_config, "Print the configuration with the overrides, and stop");
    command.footer(
        "viaduct pretrain --config-file run.yaml train.train_iters=10 model.tensor_model_parallel_size=2");
  }
};

/// In viaduct-train.
int run(const PretrainFlags& options);

}  // namespace viaduct::cli
