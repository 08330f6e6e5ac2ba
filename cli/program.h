// What the two programs share: a command line of subcommands, and errors as exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "cli/command.h"

namespace viaduct::cli {

/// A program's name and what it says of itself.
struct ProgramText {
  std::string description;
  std::string version;  // what --version prints
};

/// Reads the command line, runs the subcommand that it chooses of those that `declare` adds, and returns the exit
/// code. Errors go to stderr.
int run_program(int argc, char** argv, const ProgramText& text,
                const std::function<void(CLI::App& program, Action& action)>& declare);

}  // namespace viaduct::cli
