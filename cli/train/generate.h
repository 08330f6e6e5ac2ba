// viaduct generate: what a model continues prompts with.
#pragma once

#include "cli/train/model_options.h"

namespace viaduct::cli {

struct GenerateFlags {
  static constexpr const char* kName = "generate";
  static constexpr const char* kText = "Continue prompts";

  std::string model;
  std::vector<std::string> prompts;
  std::string prompt_file;
  ModelOptions run;
  SamplingFlags sampling;
  bool no_special_tokens = false;
  bool no_cache = false;
  bool json = false;

  void add_to(CLI::App& command) {
    command
        .add_option("MODEL", model, "Hugging Face folder or hub name (org/name), GGUF file or Megatron checkpoint")
        ->required();
    command.add_option("--prompt", prompts, "A text to continue; several make a batch")->type_name("TEXT");
    command.add_option("--prompts", prompt_file, "A file with a prompt on each line, as text or as a JSON string")
        ->type_name("FILE");
    sampling.add_to(command);
    command.add_flag("--no-special-tokens", no_special_tokens, "Put no bos token and the like around a prompt");
    command.add_flag("--no-cache", no_cache, "Compute everything anew for each token");
    command.add_flag("--json", json, "Print a JSON list: prompt, ids, text, reason, and the times");
    run.add_to(command);
    command.footer("viaduct generate MODEL --prompt 'The capital of France is' --max-new-tokens 16");
  }
};

/// In viaduct-train.
int run(const GenerateFlags& options);

}  // namespace viaduct::cli
