// viaduct list-models: the table of families.
#include <fmt/format.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/toy_model.h"
#include "viaduct/core/strings.h"
#include "viaduct/models/gguf_source.h"
#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace {

struct ListOptions {
  bool json = false;
};

// "8.03 B"
std::string count_text(int64_t parameters) {
  const double billions = static_cast<double>(parameters) * 1e-9;
  return billions >= 0.9995 ? fmt::format("{:.3g} B", billions) : fmt::format("{:.3g} M", billions * 1000);
}

std::string sources_text(const models::Family& family) {
  std::string text(family.sources);
  if (models::is_read_from_gguf(family.architecture)) text += ", GGUF";
  return text;
}

models::ArchSpec arch_of(const models::Family& family, const std::vector<std::string>& settings = {}) {
  return models::read_arch(
      models::HfConfig(toy_config(family, settings, std::nullopt), fmt::format("{}/config.json", family.name)));
}

int64_t parameters_of(const models::Family& family, const models::KnownSize& size) {
  return models::count_parameters(arch_of(family, {std::string(size.name)}));
}

std::vector<std::string> layouts_of(const models::ArchSpec& arch) {
  std::vector<std::string> layouts = {"--tp", "--pp"};
  if (!arch.hybrid) layouts.push_back("--vpp");
  layouts.push_back("--cp");
  if (arch.has_moe()) layouts.insert(layouts.end(), {"--ep", "--etp"});
  return layouts;
}

void print_table() {
  for (const models::Family& family : models::families()) {
    fmt::print("{} ({}, {})\n", family.title, family.name, family.architecture);
    std::string sizes;
    for (const models::KnownSize& size : family.sizes)
      sizes +=
          fmt::format("{}{} {}", sizes.empty() ? "" : ", ", size.name, count_text(parameters_of(family, size)));
    if (!sizes.empty()) fmt::print("  sizes    {}\n", sizes);
    fmt::print("  sources  {}\n  proven   {}\n", sources_text(family), family.proven);
  }
  fmt::print(
      "\nviaduct toy FAMILY FOLDER --shape SIZE makes a random model of one of these sizes to try things on.\n");
}

Json family_json(const models::Family& family) {
  const models::ArchSpec arch = arch_of(family);
  Json sizes = Json::array(), layouts = Json::array(), forms = Json::array();
  for (const models::KnownSize& size : family.sizes) {
    sizes.items().push_back(Json::object({{"name", Json(size.name)},
                                          {"hf_id", Json(size.hf_id)},
                                          {"parameters", Json(parameters_of(family, size))}}));
  }
  for (const std::string& layout : layouts_of(arch)) layouts.items().push_back(Json(layout));
  for (const models::WeightForm& form : family.other_forms) forms.items().push_back(Json(form.name));
  return Json::object({{"family", Json(family.name)},
                       {"title", Json(family.title)},
                       {"architecture", Json(family.architecture)},
                       {"model_type", Json(family.model_type)},
                       {"vision", Json(arch.vision.has_value())},
                       {"sources", Json(sources_text(family))},
                       {"other_forms", std::move(forms)},
                       {"layouts", std::move(layouts)},
                       {"proven", Json(family.proven)},
                       {"sizes", std::move(sizes)}});
}

int run_list(const ListOptions& options) {
  if (!options.json) {
    print_table();
    return kDone;
  }
  Json list = Json::array();
  for (const models::Family& family : models::families()) list.items().push_back(family_json(family));
  print_json(Json::object({{"families", std::move(list)}}));
  return kDone;
}

}  // namespace

void add_list_models(CLI::App& program, Action& action) {
  add_command<ListOptions>(
      program, action, "list-models", "Show the model families that can be converted",
      [](CLI::App& command, ListOptions& options) {
        command.add_flag("--json", options.json, "Print one JSON object instead of text");
      },
      run_list);
}

}  // namespace viaduct::cli
