// What the program's command line is, as data: made from the same declarations that read it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace viaduct::cli {

/// An option, or an argument by its place.
struct ArgumentDescription {
  std::string name;   // "--tp", "HF_MODEL"
  std::string value;  // "N", what an option takes; empty for a flag and for an argument
  std::string text;
  std::vector<std::string> choices;  // the values that there are; empty: too many to list
  bool required = false;
  bool repeated = false;
  bool is_path = false;  // a file, a folder or a name of the hub
};

struct CommandDescription {
  std::string name;
  std::string text;
  std::string footer;
  std::vector<ArgumentDescription> arguments;
  std::vector<ArgumentDescription> options;  // without --help
};

/// All subcommands, in the order in which --help lists them.
std::vector<CommandDescription> describe_commands(const CLI::App& program);

}  // namespace viaduct::cli
