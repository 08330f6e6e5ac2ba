// viaduct man: the program's manual page, made from the descriptions that --help shows.
#include <fmt/format.h>

#include <cstdio>

#include "cli/command.h"
#include "cli/description.h"
#include "viaduct/core/version.h"

namespace viaduct::cli {

namespace {

// Text as roff reads it: a line does not begin with a sign that means something, '-' is the one of options.
std::string roff(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if ((c == '.' || c == '\'') && (result.empty() || result.back() == '\n')) result += "\\&";
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      result += c;
    }
  }
  return result;
}

std::string argument_text(const ArgumentDescription& argument) {
  const std::string name = fmt::format("\\fI{}\\fR{}", roff(argument.name), argument.repeated ? " ..." : "");
  return argument.required ? name : "[" + name + "]";
}

std::string entry(const std::string& head, const ArgumentDescription& argument) {
  return fmt::format(".TP\n{}\n{}.\n", head, roff(argument.text));
}

std::string command_section(const CommandDescription& command) {
  std::string text = fmt::format(".SS viaduct {}\n\\fBviaduct {}\\fR", roff(command.name), roff(command.name));
  if (!command.options.empty()) text += " [\\fIOPTIONS\\fR]";
  for (const ArgumentDescription& argument : command.arguments) text += " " + argument_text(argument);
  text += fmt::format("\n.PP\n{}.\n", roff(command.text));
  for (const ArgumentDescription& argument : command.arguments)
    text += entry(fmt::format("\\fI{}\\fR", roff(argument.name)), argument);
  for (const ArgumentDescription& option : command.options) {
    std::string head = fmt::format("\\fB{}\\fR", roff(option.name));
    if (!option.value.empty()) head += fmt::format(" \\fI{}\\fR", roff(option.value));
    text += entry(head, option);
  }
  if (!command.footer.empty()) text += fmt::format(".PP\n{}\n", roff(command.footer));
  return text;
}

std::string man_page(const CLI::App& program) {
  std::string text = fmt::format(
      ".TH VIADUCT 1 \"\" \"viaduct {}\" \"User Commands\"\n"
      ".SH NAME\nviaduct \\- convert model checkpoints between Hugging Face and Megatron\n"
      ".SH SYNOPSIS\n.B viaduct\n\\fICOMMAND\\fR [\\fIOPTIONS\\fR] ...\n"
      ".SH DESCRIPTION\n{}\n.PP\n\\fBviaduct\\fR \\fICOMMAND\\fR \\fB\\-\\-help\\fR shows what follows of one "
      "command,\n"
      "\\fBviaduct \\-\\-version\\fR the version.\n.SH COMMANDS\n",
      version(), roff(program.get_description()));
  for (const CommandDescription& command : describe_commands(program)) text += command_section(command);
  return text + fmt::format(
                    ".SH EXIT STATUS\n"
                    ".TP\n{}\nDone.\n"
                    ".TP\n{}\nDifferences were found (verify: bits; diff: names, shapes, configuration).\n"
                    ".TP\n{}\nA mistake in the input; the message says what to do.\n"
                    ".TP\n{}\nAn internal error.\n"
                    ".TP\n{}\nInterrupted (128 and the signal's number).\n",
                    kDone, kDifferent, kUserMistake, kInternalError, kInterrupted);
}

}  // namespace

void add_man(CLI::App& program, Action& action) {
  program.add_subcommand("man", "Print the manual page, for man -l -")->callback([&program, &action] {
    action = [&program] {
      const std::string text = man_page(program);
      std::fwrite(text.data(), 1, text.size(), stdout);
      return kDone;
    };
  });
}

}  // namespace viaduct::cli
