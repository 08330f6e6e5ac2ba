// What the commands that run a model have in common: which model, in which type, where, and by which ranks.
#pragma once

#include <optional>
#include <string>

#include "cli/options.h"

namespace viaduct::cli {

/// How a model is run.
struct ModelOptions {
  LayoutFlags layout;
  std::string dtype;
  std::string attention_backend = "auto";
  std::string tokenizer;
  std::optional<int64_t> iteration;
  bool cpu = false;

  void add_to(CLI::App& command) {
    layout.add_to(command);
    add_dtype(command, dtype);
    command.add_option("--attention-backend", attention_backend, "auto (default), flash, fused, unfused or local")
        ->check(CLI::IsMember({"auto", "flash", "fused", "unfused", "local"}))
        ->type_name("NAME");
    command.add_option("--tokenizer", tokenizer, "Folder with the tokenizer (default: the model's own)")
        ->type_name("DIR");
    command.add_option("--iteration", iteration, "Which iteration of a Megatron checkpoint")
        ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
        ->type_name("N");
    command.add_flag("--cpu", cpu, "Run on the CPU where there are GPUs");
  }
};

/// How tokens are chosen.
struct SamplingFlags {
  double temperature = 0.0;
  int64_t top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  std::optional<uint64_t> seed;
  int64_t max_new_tokens = 256;
  std::vector<std::string> stop;

  void add_to(CLI::App& command) {
    command.add_option("--max-new-tokens", max_new_tokens, "End after so many tokens (default: 256)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
        ->type_name("N");
    command.add_option("--temperature", temperature, "0 (default): the likeliest token; higher is more varied")
        ->type_name("X");
    command.add_option("--top-k", top_k, "Choose among the K likeliest tokens")->type_name("K");
    command.add_option("--top-p", top_p, "Choose among the likeliest tokens of this probability together")
        ->type_name("P");
    command.add_option("--min-p", min_p, "Choose among tokens with this share of the likeliest one's probability")
        ->type_name("P");
    command.add_option("--seed", seed, "The same seed gives the same tokens")->type_name("N");
    command.add_option("--stop", stop, "End before this text; can be given several times")->type_name("TEXT");
  }
};

}  // namespace viaduct::cli
