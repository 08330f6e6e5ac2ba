// viaduct completion: what a shell needs to complete command lines of this program.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "cli/description.h"
#include "viaduct/core/version.h"

namespace viaduct::cli {

namespace {

using Commands = std::vector<CommandDescription>;

std::string names_of(const std::vector<ArgumentDescription>& options) {
  std::string names = "--help";
  for (const ArgumentDescription& option : options) names += " " + option.name;
  return names;
}

std::string joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

// `text` with a backslash in front of each of `signs`.
std::string escaped(std::string_view text, std::string_view signs) {
  std::string result;
  for (const char c : text) {
    if (signs.find(c) != std::string_view::npos) result += '\\';
    result += c;
  }
  return result;
}

// In single quotes, as bash and zsh read them.
std::string in_quotes(std::string_view text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string bash_completion(const Commands& commands) {
  std::string names, cases;
  for (const CommandDescription& command : commands) {
    names += command.name + " ";
    cases += fmt::format("    {})\n      options=\"{}\"\n", command.name, names_of(command.options));
    if (!command.arguments.empty() && !command.arguments[0].choices.empty())
      cases += fmt::format("      ((COMP_CWORD == 2)) && words=\"{}\"\n", joined(command.arguments[0].choices));
    cases += "      case $previous in\n";
    std::vector<std::string> anything, paths;
    for (const ArgumentDescription& option : command.options) {
      if (option.value.empty()) continue;
      if (!option.choices.empty()) {
        cases += fmt::format("        {}) words=\"{}\" ;;\n", option.name, joined(option.choices));
      } else {
        (option.is_path ? paths : anything).push_back(option.name);
      }
    }
    if (!anything.empty()) cases += fmt::format("        {}) words=anything ;;\n", fmt::join(anything, " | "));
    if (!paths.empty()) cases += fmt::format("        {}) words=paths ;;\n", fmt::join(paths, " | "));
    cases += "      esac\n      ;;\n";
  }
  return fmt::format(R"(# Completion of viaduct {} for bash: source <(viaduct completion bash)
_viaduct() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} options= words=
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "{}--help --version" -- "$current"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{}  esac
  if [[ $words == anything ]]; then
    compopt +o default
  elif [[ $words != paths && $words && $current != -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  elif [[ $words != paths && $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  fi
}}
complete -o default -F _viaduct viaduct
)",
                     version(), names, cases);
}

// "HF_DIR:_files", "TYPE:(bfloat16 float16)", "N: ": what zsh's _arguments is told of a value.
std::string zsh_value(const ArgumentDescription& argument, const std::string& name) {
  const std::string values = !argument.choices.empty() ? fmt::format("({})", joined(argument.choices))
                             : argument.is_path        ? "_files"
                                                       : " ";
  return fmt::format("{}:{}", name, values);
}

std::string zsh_completion(const Commands& commands) {
  std::string names, cases;
  for (const CommandDescription& command : commands) {
    names += fmt::format("    {}\n", in_quotes(escaped(command.name, ":\\") + ":" + command.text));
    cases += fmt::format("        {})\n          _arguments '--help[Print a help message]'", command.name);
    for (const ArgumentDescription& option : command.options)
      cases += " \\\n            " +
               in_quotes(fmt::format("{}{}[{}]{}", option.repeated ? "*" : "", option.name,
                                     escaped(option.text, "[]:\\"),
                                     option.value.empty() ? "" : ":" + zsh_value(option, option.value)));
    for (const ArgumentDescription& argument : command.arguments)
      cases += " \\\n            " +
               in_quotes(fmt::format("{}:{}", argument.repeated ? "*" : "", zsh_value(argument, argument.name)));
    cases += "\n          ;;\n";
  }
  return fmt::format(R"(#compdef viaduct
# Completion of viaduct {} for zsh: a file _viaduct in a folder of $fpath, or source <(viaduct completion zsh)
_viaduct() {{
  local context state state_descr line
  typeset -A opt_args
  local -a commands=(
{}  )
  _arguments -C '--help[Print a help message]' '--version[Show the version]' '1: :->command' '*:: :->rest'
  case $state in
    command) _describe -t commands command commands ;;
    rest)
      case $words[1] in
{}      esac
      ;;
  esac
}}
if [[ $funcstack[1] == _viaduct ]]; then
  _viaduct "$@"
else
  compdef _viaduct viaduct
fi
)",
                     version(), names, cases);
}

std::string fish_completion(const Commands& commands) {
  const auto text = [](const std::string& words) { return "'" + escaped(words, "'\\") + "'"; };
  std::string lines;
  for (const CommandDescription& command : commands) {
    lines += fmt::format("complete -c viaduct -n '__viaduct_command_is' -a {} -d {}\n", command.name,
                         text(command.text));
    const std::string here = fmt::format("complete -c viaduct -n '__viaduct_command_is {}'", command.name);
    for (const ArgumentDescription& argument : command.arguments)
      lines += argument.is_path ? here + " -F\n" : fmt::format("{} -a {}\n", here, text(joined(argument.choices)));
    for (const ArgumentDescription& option : command.options) {
      lines += fmt::format("{} -l {} -d {}", here, option.name.substr(2), text(option.text));
      if (!option.value.empty()) lines += option.is_path ? " -r -F" : " -x";
      if (!option.choices.empty()) lines += fmt::format(" -a {}", text(joined(option.choices)));
      lines += "\n";
    }
  }
  return fmt::format(R"(# Completion of viaduct {} for fish: viaduct completion fish | source
function __viaduct_command_is
  set -l words (commandline -opc)
  test "$words[2]" = "$argv[1]"
end
complete -c viaduct -f
complete -c viaduct -l help -d 'Print a help message'
complete -c viaduct -n '__viaduct_command_is' -l version -d 'Show the version'
{})",
                     version(), lines);
}

}  // namespace

void add_completion(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand("completion", "Print the completion script of a shell");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->footer("In bash: source <(viaduct completion bash)");
  command->callback([&program, &action, shell] {
    action = [&program, shell] {
      const Commands commands = describe_commands(program);
      const std::string script = *shell == "bash"  ? bash_completion(commands)
                                 : *shell == "zsh" ? zsh_completion(commands)
                                                   : fish_completion(commands);
      std::fwrite(script.data(), 1, script.size(), stdout);
      return kDone;
    };
  });
}

}  // namespace viaduct::cli
