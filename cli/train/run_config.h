// What the commands that train share: where their configuration comes from.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/config/config_container.h"

namespace viaduct::cli {

/// Options of `pretrain` and `finetune`.
struct RunConfigFlags {
  std::string recipe;
  std::string config_file;
  std::vector<std::string> overrides;
  bool cpu = false;
  bool print_config = false;
  bool dry_run = false;
  std::optional<int64_t> world_size;

  void add_to(CLI::App& command) {
    command.add_option("--recipe", recipe, "Begin with a recipe of `viaduct list-recipes`")->type_name("NAME");
    command.add_option("--config-file", config_file, "YAML with the sections of Megatron Bridge's ConfigContainer")
        ->type_name("FILE");
    command.add_option("OVERRIDE", overrides,
                       "section.field=value, +section.field=value, ~section.field; they win over the file");
    command.add_flag("--cpu", cpu, "Use the CPU even where there are GPUs");
    command.add_flag("--print-config", print_config, "Print the configuration with the overrides, and stop");
    command.add_flag("--dry-run", dry_run,
                     "Print the configuration as the run would have it, the ranks' layout, memory and operations, "
                     "and stop");
    command.add_option("--world-size", world_size, "With --dry-run: the number of ranks (else WORLD_SIZE)")
        ->type_name("N")
        ->check(CLI::Range(1, 1 << 24));
  }
};

/// The recipe, the file over it, the overrides over both. UserError when none of them is given.
config::ConfigContainer read_run_config(const RunConfigFlags& flags);

/// Does what --print-config or --dry-run asks for; false when neither is given and the run is to be made.
bool print_only(const RunConfigFlags& flags, const config::ConfigContainer& config);

}  // namespace viaduct::cli
