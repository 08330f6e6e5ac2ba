// The `viaduct-train` program: what needs the model, and libtorch.
#include <fmt/format.h>

#include "cli/program.h"
#include "cli/train/commands.h"
#include "viaduct/core/version.h"

int main(int argc, char** argv) {
  using namespace viaduct::cli;
  const ProgramText text{"The part of viaduct that runs models; `viaduct COMMAND` starts it.",
                         fmt::format("viaduct-train {} ({})", viaduct::version(), viaduct::commit())};
  return run_program(argc, argv, text, [](CLI::App& program, Action& action) {
    add_train_commands(program, action, [](const auto& options) { return run(options); });
  });
}
