#include "cli/program.h"

#include <fmt/ranges.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include "cli/interrupt.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

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

int run(int argc, char** argv, const ProgramText& text, const std::function<void(CLI::App&, Action&)>& declare) {
  CLI::App program(text.description, "viaduct");
  Action action;
  program.set_version_flag("--version", text.version);
  program.require_subcommand(1);
  program.footer(
      "Exit codes: 0 done, 1 differences found, 2 a mistake in the input, 3 an internal error.\n"
      "viaduct COMMAND --help says more about a command.");
  declare(program, action);

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

int run_program(int argc, char** argv, const ProgramText& text,
                const std::function<void(CLI::App& program, Action& action)>& declare) {
  try {
    const int code = run(argc, argv, text, declare);
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

}  // namespace viaduct::cli
