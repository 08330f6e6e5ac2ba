// viaduct diff: names, shapes, types and configuration of two checkpoints; no weights are read.
#include <fmt/format.h>

#include <unordered_map>

#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "viaduct/models/hf_config.h"

namespace viaduct::cli {

namespace {

struct DiffOptions {
  std::string a;
  std::string b;
  std::optional<int64_t> iteration;
  bool json = false;
};

struct Entry {
  std::string what;  // tensor's name, or dotted path of a config field
  std::string in_a;  // empty: not there
  std::string in_b;
};

std::vector<Entry> diff_tensors(const bridge::View& a, const bridge::View& b) {
  std::vector<Entry> entries;
  std::unordered_map<std::string_view, const bridge::ViewTensor*> in_b;
  for (const bridge::ViewTensor& tensor : b.tensors) in_b.emplace(tensor.name, &tensor);
  const auto text = [](const bridge::ViewTensor& tensor) {
    return fmt::format("{} {}", tensor.dtype, tensor.shape);
  };
  for (const bridge::ViewTensor& tensor : a.tensors) {
    const auto it = in_b.find(tensor.name);
    if (it == in_b.end()) {
      entries.push_back({tensor.name, text(tensor), ""});
      continue;
    }
    if (text(tensor) != text(*it->second)) entries.push_back({tensor.name, text(tensor), text(*it->second)});
    in_b.erase(it);
  }
  for (const bridge::ViewTensor& tensor : b.tensors)
    if (in_b.contains(tensor.name)) entries.push_back({tensor.name, "", text(tensor)});
  return entries;
}

void diff_config(const std::string& path, const Json* a, const Json* b, std::vector<Entry>& entries) {
  if (a && b && a->is_object() && b->is_object()) {
    const std::string prefix = path.empty() ? "" : path + ".";
    for (const auto& [key, value] : a->members()) diff_config(prefix + key, &value, b->find(key), entries);
    for (const auto& [key, value] : b->members())
      if (!a->contains(key)) diff_config(prefix + key, nullptr, &value, entries);
    return;
  }
  if (a && b && *a == *b) return;
  entries.push_back({path, a ? a->dump() : "", b ? b->dump() : ""});
}

std::optional<Json> config_of(const Opened& opened) {
  if (opened.known) return opened.known->record().config;
  const Path file = opened.path / "config.json";
  if (std::filesystem::exists(file)) return models::HfConfig::read(file.string()).document();
  return std::nullopt;
}

Json entries_json(const std::vector<Entry>& entries) {
  Json json = Json::array();
  const auto side = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  for (const Entry& entry : entries)
    json.items().push_back(
        Json::object({{"name", Json(entry.what)}, {"a", side(entry.in_a)}, {"b", side(entry.in_b)}}));
  return json;
}

void print_entries(std::string_view title, const std::vector<Entry>& entries) {
  if (entries.empty()) return;
  fmt::print("{}:\n", title);
  for (const Entry& entry : entries) {
    if (entry.in_b.empty()) {
      fmt::print("  {}: only in A ({})\n", entry.what, entry.in_a);
    } else if (entry.in_a.empty()) {
      fmt::print("  {}: only in B ({})\n", entry.what, entry.in_b);
    } else {
      fmt::print("  {}: {} against {}\n", entry.what, entry.in_a, entry.in_b);
    }
  }
}

int run_diff(const DiffOptions& options) {
  const auto [a, b] = open_pair(model_path(options.a), model_path(options.b), options.iteration);
  const std::vector<Entry> tensors = diff_tensors(a.view(), b.view(&a));
  std::vector<Entry> config;
  const std::optional<Json> config_a = config_of(a), config_b = config_of(b);
  if (config_a && config_b) diff_config("", &*config_a, &*config_b, config);
  const bool same = tensors.empty() && config.empty();
  if (options.json) {
    Json json = Json::object();
    json.set("same", same);
    json.set("by_rules", a.known != nullptr);
    json.set("tensors", entries_json(tensors));
    json.set("config_compared", config_a && config_b);
    json.set("config", entries_json(config));
    print_json(json);
    return same ? kDone : kDifferent;
  }
  if (!a.known) fmt::print("note: compared by name as stored, without rules ({})\n", a.why_raw);
  print_entries("tensors", tensors);
  print_entries("config.json", config);
  if (!config_a || !config_b) fmt::print("note: configurations were not compared (one side has none)\n");
  if (same) {
    fmt::print("same names, shapes and types{} (weights were not read; viaduct verify compares them)\n",
               config_a && config_b ? ", same configuration" : "");
  }
  return same ? kDone : kDifferent;
}

}  // namespace

void add_diff(CLI::App& program, Action& action) {
  add_command<DiffOptions>(
      program, action, "diff", "Compare names, shapes, types and configuration, without reading weights",
      [](CLI::App& command, DiffOptions& options) {
        command.add_option("A", options.a, "Checkpoint of any format")->required();
        command.add_option("B", options.b, "Another one")->required();
        command.add_option("--iteration", options.iteration, "Which iteration of a Megatron checkpoint")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        command.add_flag("--json", options.json, "Print one JSON object instead of text");
      },
      run_diff);
}

}  // namespace viaduct::cli
