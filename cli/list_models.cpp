// viaduct list-models: the table of families.
#include <fmt/format.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/options.h"
#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace {

struct ListOptions {
  bool json = false;
};

// What a family can be read from. GGUF's reader knows three of the architectures.
std::vector<std::string> source_forms(const models::Family& family) {
  std::vector<std::string> forms = {"safetensors", "torch", "torch_dist"};
  static constexpr std::string_view kInGguf[] = {"llama", "mistral", "qwen2", "qwen3"};
  if (std::find(std::begin(kInGguf), std::end(kInGguf), family.name) != std::end(kInGguf)) forms.push_back("gguf");
  return forms;
}

int run_list(const ListOptions& options) {
  if (!options.json) {
    fmt::print("{:<12} {:<26} {:<26} {}\n", "family", "models", "architecture", "sizes (for viaduct toy --shape)");
    for (const models::Family& family : models::families()) {
      std::string sizes;
      for (const models::KnownSize& size : family.sizes)
        sizes += fmt::format("{}{}", sizes.empty() ? "" : " ", size.name);
      fmt::print("{:<12} {:<26} {:<26} {}\n", family.name, family.title, family.architecture, sizes);
    }
    fmt::print(
        "\nEvery family is read from safetensors, pytorch_model*.bin and torch_dist; llama, mistral, qwen2 and "
        "qwen3 also from GGUF.\n");
    return kDone;
  }
  Json list = Json::array();
  for (const models::Family& family : models::families()) {
    Json sizes = Json::array(), forms = Json::array();
    for (const models::KnownSize& size : family.sizes)
      sizes.items().push_back(Json::object({{"name", Json(size.name)}, {"hf_id", Json(size.hf_id)}}));
    for (const std::string& form : source_forms(family)) forms.items().push_back(Json(form));
    list.items().push_back(Json::object({{"family", Json(family.name)},
                                         {"title", Json(family.title)},
                                         {"architecture", Json(family.architecture)},
                                         {"model_type", Json(family.model_type)},
                                         {"sources", std::move(forms)},
                                         {"sizes", std::move(sizes)}}));
  }
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
