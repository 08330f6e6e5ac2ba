// The `viaduct` program, which needs no libtorch: conversion. Commands of the training side it hands over.
#include <fmt/format.h>

#include "cli/hand_over.h"
#include "cli/program.h"
#include "cli/train/commands.h"
#include "viaduct/core/version.h"

namespace viaduct::cli {

namespace {

std::string version_text() {
  return fmt::format(
      "viaduct {} ({})\n"
      "reads:  safetensors, torch (pytorch_model*.bin), GGUF (v2, v3), torch_dist (generations A and B)\n"
      "writes: safetensors, torch_dist (generation A)",
      version(), commit());
}

void add_commands(CLI::App& program, Action& action, int argc, char** argv) {
  add_import(program, action);
  add_export(program, action);
  add_convert(program, action);
  add_import_adapter(program, action);
  add_export_adapter(program, action);
  add_merge_lora(program, action);
  add_verify(program, action);
  add_diff(program, action);
  add_inspect(program, action);
  add_plan(program, action);
  add_list_models(program, action);
  add_list_recipes(program, action);
  add_download(program, action);
  add_login(program, action);
  add_doctor(program, action);
  add_toy(program, action);
  add_train_commands(program, action, [argc, argv](const auto&) -> int { hand_over(argc, argv); });
  add_completion(program, action);
  add_man(program, action);
}

}  // namespace

}  // namespace viaduct::cli

int main(int argc, char** argv) {
  using namespace viaduct::cli;
  const ProgramText text{"Viaduct converts model checkpoints between Hugging Face and Megatron, bit for bit.",
                         version_text()};
  return run_program(argc, argv, text,
                     [&](CLI::App& program, Action& action) { add_commands(program, action, argc, argv); });
}
