// viaduct logprobs: how likely a model finds texts.
#pragma once

#include "cli/train/model_options.h"

namespace viaduct::cli {

struct LogprobsFlags {
  static constexpr const char* kName = "logprobs";
  static constexpr const char* kText = "Log probabilities of the tokens of texts";

  std::string model;
  std::vector<std::string> texts;
  std::string ids;
  ModelOptions run;
  bool no_special_tokens = false;
  bool json = false;

  void add_to(CLI::App& command) {
    command
        .add_option("MODEL", model, "Hugging Face folder or hub name (org/name), GGUF file or Megatron checkpoint")
        ->required();
    command.add_option("--text", texts, "A text; several make a batch")->type_name("TEXT");
    command.add_option("--ids", ids, "Token ids instead, separated by commas: needs no tokenizer")
        ->type_name("LIST");
    command.add_flag("--no-special-tokens", no_special_tokens, "Put no bos token and the like around a text");
    command.add_flag("--json", json, "Print a JSON list: ids, log probabilities, their sum and the perplexity");
    run.add_to(command);
    command.footer("viaduct logprobs MODEL --text 'Paris is the capital of France.'");
  }
};

/// In viaduct-train.
int run(const LogprobsFlags& options);

}  // namespace viaduct::cli
