// What the subcommands share: how each one registers itself and the exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace viaduct::cli {

inline constexpr int kDone = 0;
inline constexpr int kDifferent = 1;  // verify, diff: the two sides are not the same
inline constexpr int kUserMistake = 2;
inline constexpr int kInternalError = 3;
inline constexpr int kInterrupted = 130;  // 128 + SIGINT, as a shell reports it

/// What main runs once the arguments have been read; returns the exit code.
using Action = std::function<int()>;

/// Each adds one subcommand that sets `action` when it is chosen. None of them does any work by itself.
void add_import(CLI::App& program, Action& action);
void add_export(CLI::App& program, Action& action);
void add_import_adapter(CLI::App& program, Action& action);
void add_export_adapter(CLI::App& program, Action& action);
void add_merge_lora(CLI::App& program, Action& action);
void add_download(CLI::App& program, Action& action);
void add_login(CLI::App& program, Action& action);
void add_convert(CLI::App& program, Action& action);
void add_verify(CLI::App& program, Action& action);
void add_diff(CLI::App& program, Action& action);
void add_inspect(CLI::App& program, Action& action);
void add_plan(CLI::App& program, Action& action);
void add_list_models(CLI::App& program, Action& action);
void add_list_recipes(CLI::App& program, Action& action);
void add_doctor(CLI::App& program, Action& action);
void add_toy(CLI::App& program, Action& action);
void add_completion(CLI::App& program, Action& action);
void add_man(CLI::App& program, Action& action);

/// A subcommand whose options live as long as its action. `run` gets the options that the command line gave.
template <class Options, class Declare>
void add_command(CLI::App& program, Action& action, const char* name, const char* description, Declare declare,
                 int (*run)(const Options&)) {
  CLI::App* command = program.add_subcommand(name, description);
  auto options = std::make_shared<Options>();
  declare(*command, *options);
  command->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
}

}  // namespace viaduct::cli
