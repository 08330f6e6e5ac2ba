#include "cli/description.h"

#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace {

// CLI11 names a value by its type and its checks: "N:INT in [1 - 256]", "FORM:{fp8-block,mxfp4}".
std::vector<std::string> listed_choices(const std::string& type) {
  const size_t begin = type.find('{'), end = type.rfind('}');
  if (begin == std::string::npos || end == std::string::npos) return {};
  return CLI::detail::split(type.substr(begin + 1, end - begin - 1), ',');
}

std::vector<std::string> choices_of(const std::string& name, const std::string& type) {
  if (type == "TYPE") return {"bfloat16", "float16", "float32"};
  std::vector<std::string> choices = listed_choices(type);
  for (const models::Family& family : models::families()) {
    if (name == "FAMILY") choices.emplace_back(family.name);
    if (name != "--shape") continue;
    for (const models::KnownSize& size : family.sizes) choices.emplace_back(size.name);
  }
  return choices;
}

ArgumentDescription describe(const CLI::Option& option) {
  ArgumentDescription described;
  const bool positional = option.get_positional();
  described.name = positional ? option.get_name(true) : "--" + option.get_lnames().at(0);
  described.text = option.get_description();
  described.required = option.get_required();
  described.repeated = option.get_items_expected_max() > 1;
  const std::string type = option.get_type_name();
  described.choices = choices_of(described.name, type);
  if (!positional && option.get_items_expected_max() > 0) described.value = type.substr(0, type.find(':'));
  described.is_path = positional ? described.choices.empty() && described.name != "SETTINGS"
                                 : described.value == "HF_DIR" || described.value == "MODEL";
  return described;
}

}  // namespace

std::vector<CommandDescription> describe_commands(const CLI::App& program) {
  std::vector<CommandDescription> commands;
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; })) {
    CommandDescription described{command->get_name(), command->get_description(), command->get_footer(), {}, {}};
    if (described.footer == program.get_footer()) described.footer.clear();
    for (const CLI::Option* option : command->get_options()) {
      if (option == command->get_help_ptr()) continue;
      (option->get_positional() ? described.arguments : described.options).push_back(describe(*option));
    }
    commands.push_back(std::move(described));
  }
  return commands;
}

}  // namespace viaduct::cli
