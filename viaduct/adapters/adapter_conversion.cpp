#include "viaduct/adapters/adapter_conversion.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/bridge/plan_parameters.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/config/run_config.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/formats/torch_dist_files.h"

namespace viaduct::adapters {

namespace fs = std::filesystem;
using bridge::Conversion;

namespace {

// The adapter's settings as Megatron has them: one rank, that of the widest layer, and one scaling alpha / rank.
AdapterSpec megatron_spec(const Adapter& adapter, std::vector<std::string>& notes) {
  AdapterSpec spec = adapter.spec();
  if (adapter.world() == bridge::World::kMegatron) return spec;
  const AdapterUpdate& first = adapter.updates().at(0);
  const double scaling = adapter.scaling(first);
  int64_t widest = 0, narrowest = first.rank;
  ProblemList problems;
  std::set<std::string> told;
  for (const AdapterUpdate& update : adapter.updates()) {
    widest = std::max(widest, update.rank);
    narrowest = std::min(narrowest, update.rank);
    if (adapter.scaling(update) != scaling && told.insert(update.module).second)
      problems.add(fmt::format("{} is multiplied by {}", update.module, adapter.scaling(update)));
  }
  VIADUCT_USER_CHECK(problems.empty(),
                     "{}: Megatron has one alpha and one rank for all layers. {} is multiplied by {}, but not all "
                     "layers are; {}\nMerge the adapter into its base instead (viaduct merge-lora)",
                     adapter.path().string(), first.module, scaling, problems.text());
  if (widest != narrowest)
    notes.push_back(fmt::format(
        "Megatron has one rank for all layers: those of less than {} are filled up with zeros", widest));
  spec.rank = widest;
  spec.alpha = scaling * static_cast<double>(widest);
  spec.use_rslora = false;
  spec.alphas.clear();
  return spec;
}

// The last word of a Megatron module, or the canonical part of it: what target_modules names.
std::string target_of(const std::string& parameter) {
  const size_t at = parameter.find(".adapter.");
  const std::string module = parameter.substr(0, at);
  const std::string last = module.substr(module.rfind('.') + 1);
  const std::string_view rest = std::string_view(parameter).substr(at + 9);
  const struct {
    std::string_view part, name;
  } kParts[] = {{"adapter_q.", "linear_q"},
                {"adapter_k.", "linear_k"},
                {"adapter_v.", "linear_v"},
                {"adapter_gate.", "linear_fc1_gate"},
                {"adapter_up.", "linear_fc1_up"}};
  for (const auto& [part, name] : kParts)
    if (rest.starts_with(part)) return std::string(name);
  return last;
}

// The targets in upstream's order: names where every such layer of the base is adapted, else full paths.
std::vector<std::string> target_modules(const Adapter& adapter, AdapterKind kind) {
  std::map<std::string, std::set<std::string>> adapted;  // target -> modules
  for (const models::Parameter& parameter : adapter.graph().parameters) {
    const std::string module = parameter.name.substr(0, parameter.name.find(".adapter."));
    const std::string target = target_of(parameter.name);
    // Canonical LoRA leaves fused what it cannot part (experts), but calls it by the parts' names.
    if (kind == AdapterKind::kCanonicalLora && target == "linear_fc1") {
      adapted["linear_fc1_up"].insert(module);
      adapted["linear_fc1_gate"].insert(module);
    } else {
      adapted[target].insert(module);
    }
  }
  std::map<std::string, std::set<std::string>> all;  // last word -> modules
  for (const models::Parameter& parameter : adapter.base().parameters) {
    if (!is_linear(parameter)) continue;
    const std::string module = parameter.module();
    all[module.substr(module.rfind('.') + 1)].insert(module);
  }
  std::vector<std::string> targets;
  const auto add = [&](const std::string& target) {
    const auto it = adapted.find(target);
    if (it == adapted.end()) return;
    const std::string& module = *it->second.begin();
    const std::string last = module.substr(module.rfind('.') + 1);
    if (it->second.size() == all[last].size()) {
      targets.push_back(target);
    } else {
      for (const std::string& each : it->second)
        targets.push_back(each.substr(0, each.size() - last.size()) + target);
    }
    adapted.erase(it);
  };
  for (const char* usual : {"linear_qkv", "linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1",
                            "linear_fc1_up", "linear_fc1_gate", "linear_fc2"})
    add(usual);
  while (!adapted.empty()) add(std::string(adapted.begin()->first));
  return targets;
}

// Names as the model's modules have them: experts of a layer are one module.
std::vector<std::string> parameter_names(const Adapter& adapter) {
  std::set<std::string> names;
  for (const models::Parameter& parameter : adapter.graph().parameters) {
    std::string name = parameter.name;
    if (parameter.expert >= 0) name.resize(name.size() - std::to_string(parameter.expert).size());
    names.insert(name);
  }
  return {names.begin(), names.end()};
}

// Do all experts of each layer have the same numbers? Megatron then keeps one adapter for them.
bool experts_share(const Adapter& adapter) {
  // By sums: the matrices of a large model's layers together would fill the memory.
  std::map<std::string, std::pair<uint64_t, uint64_t>> first;
  const auto sum = [](const std::vector<float>& numbers) { return xxh3_64(std::as_bytes(std::span(numbers))); };
  for (const AdapterUpdate& update : adapter.updates()) {
    const int32_t parameter = adapter.base().parameters_of(static_cast<size_t>(update.weight)).at(0);
    const models::Parameter& base = adapter.base().parameters[static_cast<size_t>(parameter)];
    if (base.expert < 0) continue;
    const std::string key = fmt::format("{} {}", base.module(), update.module.substr(update.module.rfind('.') + 1));
    const Adapter::Matrices matrices = adapter.read(update);
    const std::pair sums(sum(matrices.a), sum(matrices.b));
    if (first.try_emplace(key, sums).first->second != sums) return false;
  }
  return true;
}

}  // namespace

Conversion plan_adapter_import(const Adapter& adapter, const Path& root, const bridge::MegatronTarget& target,
                               const std::string& base_path) {
  target.parallel.validate();
  const models::ArchSpec& arch = adapter.graph().arch;
  const std::vector<std::string> notes = bridge::check_layout(arch, target.parallel);
  VIADUCT_USER_CHECK(target.iteration >= 0 && target.iteration <= 9999999, "iteration {} is not in 0 to 9999999",
                     target.iteration);
  Conversion conversion;
  conversion.notes = adapter.notes();
  conversion.notes.insert(conversion.notes.end(), notes.begin(), notes.end());
  const AdapterSpec spec = megatron_spec(adapter, conversion.notes);
  VIADUCT_USER_CHECK(
      spec.kind != AdapterKind::kDora || target.parallel.tp == 1 || adapter.world() == bridge::World::kHuggingFace,
      "{}: a DoRA checkpoint cannot be written for another tensor-parallel size; go by a PEFT folder",
      adapter.path().string());
  conversion.world = bridge::World::kMegatron;
  conversion.target = root;
  conversion.folder = formats::iteration_folder_name(target.iteration);
  conversion.cast = target.dtype;
  conversion.unused = adapter.unused();
  conversion.source = &adapter;
  bridge::ParameterPlan planned =
      bridge::plan_parameters(adapter, target, models::layer_keys_for(arch), conversion);
  conversion.plan = planned.builder.finish(planned.writer.finish());
  if (planned.casts) conversion.notes.push_back(fmt::format("weights are cast to {}", torch_name(*target.dtype)));

  config::Yaml document =
      config::run_config_document(bridge::provider_in_layout(adapter, target),
                                  {.save_path = fs::absolute(root).string(), .tokenizer_model = {}});
  document.find("checkpoint")->set("pretrained_checkpoint", base_path);
  document.set("peft", peft_section(spec, target_modules(adapter, spec.kind), parameter_names(adapter),
                                    experts_share(adapter)));
  const std::string& folder = conversion.folder;
  const std::string train_state = formats::train_state_file(target.iteration);
  conversion.files.push_back({folder + "/.metadata", planned.writer.metadata(root / folder)});
  conversion.files.push_back({folder + "/metadata.json", formats::torch_dist_metadata_json()});
  conversion.files.push_back({folder + "/common.pt", formats::common_state_file(target.iteration)});
  conversion.files.push_back({folder + "/run_config.yaml", config::emit_yaml(document)});
  conversion.files.push_back({folder + "/train_state.pt", train_state});
  conversion.files.push_back({"latest_train_state.pt", train_state});
  conversion.files.push_back({"latest_checkpointed_iteration.txt", std::to_string(target.iteration)});
  conversion.proof = prove(conversion.plan, source_sizes(conversion.plan));
  return conversion;
}

namespace {

// A tensor of the PEFT folder.
struct PeftOutput {
  std::string name;
  int32_t tensor = -1;  // of the adapter's graph
};

std::vector<PeftOutput> outputs(const Adapter& adapter) {
  std::vector<PeftOutput> result;
  for (size_t i = 0; i < adapter.graph().hf_tensors.size(); ++i)
    result.push_back({adapter.graph().hf_tensors[i].name, static_cast<int32_t>(i)});
  for (const auto& [copy, of] : adapter.copies()) result.push_back({copy, of});
  // In the order of names, as PEFT's files have them.
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return result;
}

std::string config_text(const Adapter& adapter, const std::string& base_model, bool as_source) {
  const bridge::SideFile* kept = adapter.record().find("adapter_config.json");
  if (kept && as_source && base_model.empty()) return adapter.record().read(*kept);
  AdapterSpec spec = adapter.spec();
  if (!base_model.empty()) spec.base_model = base_model;
  if (kept && as_source) {
    Json config = *spec.peft_config;
    config.set("base_model_name_or_path", spec.base_model);
    return config.dump(2);
  }
  std::set<std::string> modules, parameters;
  std::map<std::string, int64_t> ranks;
  for (const AdapterUpdate& update : adapter.updates()) {
    const std::string& weight = adapter.base().hf_tensors[static_cast<size_t>(update.weight)].name;
    if (update.expert >= 0) {
      parameters.insert(weight);
    } else {
      modules.insert(update.module.substr(update.module.rfind('.') + 1));
    }
    if (update.rank != spec.rank) ranks[update.module] = update.rank;
  }
  spec.target_parameters = {parameters.begin(), parameters.end()};
  // PEFT takes alpha / r with a module's own r; Megatron's alpha goes with its one dim for experts too.
  const std::vector<std::string> names(modules.begin(), modules.end());
  return peft_config_json(spec, names, {ranks.begin(), ranks.end()}).dump(2);
}

}  // namespace

Conversion plan_adapter_export(const Adapter& adapter, const Path& folder, const std::string& base_model,
                               std::optional<DType> dtype) {
  Conversion conversion;
  conversion.world = bridge::World::kHuggingFace;
  conversion.target = folder;
  conversion.unused = adapter.unused();
  conversion.notes = adapter.notes();
  conversion.source = &adapter;
  const std::vector<PeftOutput> tensors = outputs(adapter);
  const bridge::SourceRecord& record = adapter.record();
  // The folder that it came from, when the same tensors still make it.
  bool as_source = !record.shards.empty() && record.tensors.size() == tensors.size();
  std::map<std::string, int32_t> by_name;
  for (const PeftOutput& tensor : tensors) by_name.emplace(tensor.name, tensor.tensor);
  for (const bridge::ListedTensor& listed : record.tensors) {
    const auto it = by_name.find(listed.name);
    as_source = as_source && it != by_name.end() &&
                adapter.graph().hf_tensors[static_cast<size_t>(it->second)].shape == listed.shape;
  }
  formats::SafetensorsWriterOptions options;
  options.shards.push_back({"adapter_model.safetensors", as_source ? record.shards[0].header : ""});
  formats::SafetensorsWriter writer(options);
  bridge::PlanBuilder builder(adapter.stored());
  const auto add = [&](const std::string& name, int32_t tensor, uint32_t number) {
    const layout::Pieces pieces = adapter.hf_pieces(static_cast<size_t>(tensor));
    formats::StoredTensor stored;
    stored.name = name;
    stored.dtype = dtype.value_or(adapter.dtype_of(pieces));
    stored.shape = adapter.graph().hf_tensors[static_cast<size_t>(tensor)].shape;
    builder.add(Shape::filled(stored.shape.rank(), 0), stored.shape, stored.dtype, pieces, number, 0);
    writer.add(std::move(stored), 0);
    conversion.made_of.push_back(tensor);
  };
  uint32_t number = 0;
  if (as_source) {
    for (const bridge::ListedTensor& listed : record.tensors) add(listed.name, by_name.at(listed.name), number++);
  } else {
    for (const PeftOutput& tensor : tensors) add(tensor.name, tensor.tensor, number++);
  }
  conversion.plan = builder.finish(writer.finish());
  for (const bridge::SideFile& side : record.side_files)
    if (side.name != "adapter_config.json") conversion.files.push_back({side.name, record.read(side)});
  conversion.files.push_back({"adapter_config.json", config_text(adapter, base_model, as_source)});
  conversion.proof = prove(conversion.plan, source_sizes(conversion.plan));
  return conversion;
}

}  // namespace viaduct::adapters
