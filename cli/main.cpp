// The `viaduct` program: reads the command line, runs one subcommand, turns errors into exit codes.
#include <fmt/ranges.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
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

/// " (did you mean \"import\"?)" or nothing.
std::string suggestion(std::string_view name, const std::vector<std::string>& candidates) {
  const auto near = nearest(name, candidates);
  return near ? fmt::format(" (did you mean \"{}\"?)", *near) : "";
}

std::vector<CLI::App*> commands(CLI::App& program) {
  return program.get_subcommands([](const CLI::App*) { return true; });
}

// The subcommand that argv[1] names.
CLI::App* chosen_command(CLI::App& program, int argc, char** argv) {
  for (CLI::App* command : commands(program))
    if (argc > 1 && command->get_name() == argv[1]) return command;
  return nullptr;
}

std::string unknown_option_text(const CLI::App& command, const std::string& argument) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  const std::string name = argument.substr(0, argument.find('='));
  if (!name.starts_with("-")) return fmt::format("there is one argument too many: \"{}\"", argument);
  return fmt::format("there is no option {}{}", name, suggestion(name, names));
}

int fail(int code, const std::string& message) {
  std::fflush(stdout);
  fmt::print(stderr, "viaduct: error: {}\n", message);
  return code;
}

// What the command line has wrong, in our words where CLI11's are poor.
int usage_error(CLI::App& program, const CLI::ParseError& error, int argc, char** argv) {
  CLI::App* command = chosen_command(program, argc, argv);
  std::string message = error.what();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) && command) {
    const std::vector<std::string> rest = command->remaining(true);
    const std::vector<std::string> outer = program.remaining(true);
    if (!rest.empty() || !outer.empty()) message = unknown_option_text(*command, (rest.empty() ? outer : rest)[0]);
  }
  return fail(kUserMistake, fmt::format("{}. See: viaduct {}--help", message,
                                        command ? command->get_name() + " " : std::string()));
}

constexpr const char* kFullOutput = "cannot write to the standard output";

int run(int argc, char** argv) {
  CLI::App program("Viaduct converts model checkpoints between Hugging Face and Megatron, bit for bit.", "viaduct");
  Action action;
  program.set_version_flag("--version", version_text);
  program.require_subcommand(1);
  program.footer(
      "Exit codes: 0 done, 1 differences found, 2 a mistake in the input, 3 an internal error.\n"
      "viaduct COMMAND --help says more about a command.");
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
  add_download(program, action);
  add_login(program, action);
  add_doctor(program, action);
  add_toy(program, action);
  add_completion(program, action);
  add_man(program, action);

  if (argc < 2) return fail(kUserMistake, "no command was given. See: viaduct --help");
  if (const std::string first = argv[1]; !first.starts_with("-") && !chosen_command(program, argc, argv)) {
    std::vector<std::string> names;
    for (const CLI::App* command : commands(program)) names.push_back(command->get_name());
    return fail(kUserMistake, fmt::format("there is no command \"{}\"{}; there are {}", first,
                                          suggestion(first, names), fmt::join(names, ", ")));
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return program.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return usage_error(program, error, argc, argv);
  }
  return action();
}

}  // namespace

}  // namespace viaduct::cli

int main(int argc, char** argv) {
  using namespace viaduct::cli;
  try {
    const int code = run(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return fail(kUserMistake, kFullOutput);
    return code;
  } catch (const viaduct::Interrupted& error) {
    const int signal = interrupt_signal();
    return fail(signal > 0 ? 128 + signal : kInterrupted, error.what());
  } catch (const viaduct::UserError& error) {
    return fail(kUserMistake, error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(kUserMistake, error.what());
  } catch (const std::system_error& error) {
    // A long text is written in parts, and fmt tells of the first that fails.
    if (std::ferror(stdout) != 0) return fail(kUserMistake, kFullOutput);
    return fail(kInternalError, fmt::format("internal error, please report it: {}", error.what()));
  } catch (const std::bad_alloc&) {
    return fail(kUserMistake, "there is not enough memory; try a smaller --max-ram or fewer --threads");
  } catch (const std::exception& error) {
    return fail(kInternalError, fmt::format("internal error, please report it: {}", error.what()));
  }
}
