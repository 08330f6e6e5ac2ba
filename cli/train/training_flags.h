// What the commands that train have in common: where the configuration comes from.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "viaduct/config/config_container.h"

namespace viaduct::parallel {
class ProcessWorld;
}
namespace viaduct::training {
struct SetupOptions;
}

namespace viaduct::cli {

/// The options of pretrain and finetune.
struct TrainingFlags {
  std::string config_file;
  std::vector<std::string> overrides;
  bool cpu = false;
  bool print_config = false;

  /// `what`: the command's name, for its example.
  void add_to(CLI::App& command, const std::string& what) {
    command.add_option("--config-file", config_file, "YAML with the sections of Megatron Bridge's ConfigContainer")
        ->type_name("FILE");
    command.add_option("OVERRIDE", overrides,
                       "section.field=value, +section.field=value, ~section.field; they win over the file");
    command.add_flag("--cpu", cpu, "Use the CPU even where there are GPUs");
    command.add_flag("--print-config", print_config, "Print the configuration with the overrides, and stop");
    command.footer("viaduct " + what +
                   " --config-file run.yaml train.train_iters=10 model.tensor_model_parallel_size=2");
  }
};

/// Reads the configuration, and runs `train` on the ranks' world; the exit code. In viaduct-train.
int run_training(const TrainingFlags& flags,
                 const std::function<void(const config::ConfigContainer& config, parallel::ProcessWorld& world,
                                          const training::SetupOptions& setup)>& train);

}  // namespace viaduct::cli
