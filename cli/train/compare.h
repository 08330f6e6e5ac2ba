// viaduct compare: do two checkpoints, and transformers, compute the same?
#pragma once

#include "cli/train/model_options.h"

namespace viaduct::cli {

struct CompareFlags {
  static constexpr const char* kName = "compare";
  static constexpr const char* kText = "Compare what models compute: logits, and the first module that differs";

  std::string a;
  std::string b;
  std::string reference;
  std::string prompt = "The quick brown fox jumps over the lazy dog.";
  std::string ids;
  double tolerance = 0.0;
  ModelOptions run;
  bool json = false;

  void add_to(CLI::App& command) {
    command.add_option("A", a, "Hugging Face folder or hub name (org/name), GGUF file or Megatron checkpoint")
        ->required();
    command.add_option("B", b, "Another one, of the same model");
    command
        .add_option("--reference-logits", reference,
                    "Compare with these too: what tools/reference_logits made with transformers")
        ->type_name("FILE");
    command.add_option("--prompt", prompt, "The text to compute (default: a pangram)")->type_name("TEXT");
    command.add_option("--ids", ids, "Token ids instead, separated by commas: needs no tokenizer")
        ->type_name("LIST");
    command
        .add_option("--tolerance", tolerance,
                    "Logits may differ by so much of the largest one (default: 0; for a reference 4e-6 in float32, "
                    "0.02 else)")
        ->type_name("X");
    command.add_flag("--json", json, "Print a JSON object");
    run.add_to(command);
    command.footer(
        "Exit code 1 when they differ by more than the tolerance.\n"
        "viaduct compare HF_DIR MEGATRON_DIR --reference-logits logits.safetensors --dtype float32");
  }
};

/// In viaduct-train.
int run(const CompareFlags& options);

}  // namespace viaduct::cli
