// viaduct chat: a conversation with a model, through its chat template.
#pragma once

#include "cli/train/model_options.h"

namespace viaduct::cli {

struct ChatFlags {
  static constexpr const char* kName = "chat";
  static constexpr const char* kText = "Talk with a model through its chat template";

  std::string model;
  std::string system;
  std::vector<std::string> messages;
  std::string template_name;
  ModelOptions run;
  SamplingFlags sampling;
  bool show_ids = false;

  void add_to(CLI::App& command) {
    command
        .add_option("MODEL", model, "Hugging Face folder or hub name (org/name), GGUF file or Megatron checkpoint")
        ->required();
    command.add_option("--system", system, "What the model is told first")->type_name("TEXT");
    command.add_option("--message", messages, "Say this and end after the answer; several are said in turn")
        ->type_name("TEXT");
    command.add_option("--template", template_name, "Which of the model's chat templates")->type_name("NAME");
    sampling.add_to(command);
    command.add_flag("--ids", show_ids, "Print the ids of each answer too");
    run.add_to(command);
    command.footer(
        "Without --message it reads what you say from the standard input, line by line.\n"
        "viaduct chat MODEL --message 'What is the capital of France?'");
  }
};

/// In viaduct-train.
int run(const ChatFlags& options);

}  // namespace viaduct::cli
