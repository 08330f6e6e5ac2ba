// A PEFT folder: adapter_config.json and adapter_model.safetensors (or .bin).
#include <algorithm>
#include <set>
#include <unordered_map>

#include "viaduct/adapters/adapter_files.h"
#include "viaduct/adapters/peft_file.h"
#include "viaduct/core/error.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/core/strings.h"
#include "viaduct/models/registry.h"

namespace viaduct::adapters {

namespace fs = std::filesystem;
using bridge::WeightGraph;
using formats::StoredTensor;
using layout::Box;
using layout::Piece;
using layout::Pieces;

bool is_peft_folder(const Path& path) { return fs::exists(path / "adapter_config.json"); }

namespace {

// A stored tensor, or an expert's part of it, that a PEFT tensor of the graph is.
struct Place {
  const StoredTensor* stored = nullptr;
  int64_t experts = 0;  // of a tensor of all experts whose weights the base has one by one; else 0
  int64_t expert = 0;
  int64_t first_row = 0;  // of lora_B: gate and up are one tensor
  std::string module;     // then: what PEFT calls that tensor
};

class PeftFolder : public Adapter {
 public:
  PeftFolder(const Path& path, const bridge::Checkpoint& base, const AdapterOptions& options)
      : Adapter(bridge::World::kHuggingFace, path), file_(open_peft_file(path)) {
    const PeftView view = options.view;
    const Path config = path / "adapter_config.json";
    spec_ = read_peft_config(Json::parse(read_text_file(config, 16u << 20), config.string()), config.string());
    find_weights(base);
    choose_linears(view);
    if (view != PeftView::kUpdates) {
      int64_t widest = 0;
      for (const AdaptedLinear& linear : linears_) widest = std::max(widest, linear.rank);
      for (AdaptedLinear& linear : linears_) linear.stored_rank = widest;
    }
    set_graph(build_adapter_graph(base_, linears_, spec_.kind == AdapterKind::kDora, options.tp));
    if (view == PeftView::kCanonical || canonical_) spec_.kind = AdapterKind::kCanonicalLora;
    for (AdapterUpdate& update : updates_)
      if (const Place& a = at_.at(update.weight)[0]; a.experts > 0) update.module = a.module;
    locate();
    fill_record(base);
  }

 private:
  void find_weights(const bridge::Checkpoint& base);
  size_t match(const WeightGraph& names);
  bool match_experts(const WeightGraph& names, const std::string& module, const Halves& halves);
  std::string packed_weight(const WeightGraph& names, std::string module) const;
  void choose_linears(PeftView view);
  bool equal_first_halves(const std::vector<int32_t>& tensors) const;
  int64_t rank_of(int32_t tensor) const;
  void locate();
  void fill_record(const bridge::Checkpoint& base);

  PeftFile file_;
  std::unordered_map<int32_t, std::array<Place, 3>> at_;  // by Hugging Face tensor of base_
  std::vector<std::string> unmatched_;
  std::vector<AdaptedLinear> linears_;
  bool canonical_ = false;
};

// The weight that holds all experts which the tensors of `module` adapt; "" when there is none. Several such
// weights of one module are told apart by their place in the alphabet.
std::string PeftFolder::packed_weight(const WeightGraph& names, std::string module) const {
  constexpr std::string_view kWrapped = ".base_layer";
  size_t depth = 0;
  for (; module.ends_with(kWrapped); ++depth) module.resize(module.size() - kWrapped.size());
  std::vector<std::string> candidates;
  for (const layout::Expr::Input& tensor : names.hf_tensors)
    if (tensor.shape.rank() == 3 && tensor.name.starts_with(module + ".") &&
        tensor.name.find('.', module.size() + 1) == std::string::npos)
      candidates.push_back(tensor.name);
  std::sort(candidates.begin(), candidates.end());
  if (!spec_.target_parameters.empty())
    std::erase_if(candidates, [&](const std::string& name) {
      return std::none_of(spec_.target_parameters.begin(), spec_.target_parameters.end(),
                          [&](const std::string& t) { return name == t || name.ends_with("." + t); });
    });
  return depth < candidates.size() ? candidates[depth] : "";
}

// Experts that transformers holds in one tensor and the base's files one by one: each gets its part.
bool PeftFolder::match_experts(const WeightGraph& names, const std::string& wrapped, const Halves& halves) {
  constexpr std::string_view kWrapped = ".base_layer";
  std::string module = wrapped;
  bool gate_and_up = false;
  for (; module.ends_with(kWrapped); module.resize(module.size() - kWrapped.size())) gate_and_up = true;
  const bool only_gate_and_up =
      spec_.target_parameters.size() == 1 && spec_.target_parameters[0].ends_with("gate_up_proj");
  gate_and_up |= only_gate_and_up;
  std::vector<std::string_view> parts = {"down_proj"};
  if (gate_and_up) parts = {"gate_proj", "up_proj"};
  int64_t experts = 0;
  const auto id_of = [&](int64_t expert, std::string_view part) {
    const auto it = names.hf_ids.find(fmt::format("{}.{}.{}.weight", module, expert, part));
    return it == names.hf_ids.end() ? -1 : it->second;
  };
  while (id_of(experts, parts[0]) >= 0) ++experts;
  if (experts == 0 || !halves[Half::kA] || !halves[Half::kB]) return false;
  for (int64_t expert = 0; expert < experts; ++expert) {
    int64_t row = 0;
    for (const std::string_view part : parts) {
      const int32_t id = id_of(expert, part);
      if (id < 0) return false;
      std::array<Place, 3>& place = at_[id];
      const std::string name = module + (gate_and_up ? ".gate_up_proj" : ".down_proj");
      place[0] = {halves[Half::kA], experts, expert, 0, name};
      place[1] = {halves[Half::kB], experts, expert, row, name};
      row += names.hf_tensors[static_cast<size_t>(id)].shape[0];
    }
  }
  return true;
}

// Fills at_ with what these names find; the number of modules that they do not.
size_t PeftFolder::match(const WeightGraph& names) {
  at_.clear();
  unmatched_.clear();
  for (const auto& [module, halves] : file_.modules) {
    auto it = names.hf_ids.find(module + ".weight");
    if (it == names.hf_ids.end()) {
      const std::string packed = packed_weight(names, module);
      if (!packed.empty()) it = names.hf_ids.find(packed);
    }
    if (it != names.hf_ids.end()) {
      for (size_t half = 0; half < 3; ++half)
        if (halves.of[half]) at_[it->second][half].stored = halves.of[half];
    } else if (!match_experts(names, module, halves)) {
      unmatched_.push_back(module);
    }
  }
  return unmatched_.size();
}

void PeftFolder::find_weights(const bridge::Checkpoint& base) {
  const std::vector<models::ArchSpec> forms = named_forms(base.arch());
  size_t best = file_.modules.size() + 1;
  for (const models::ArchSpec& form : forms) {
    WeightGraph names = bridge::build_weight_graph(form);
    const size_t missing = match(names);
    if (missing >= best) continue;
    best = missing;
    base_ = std::move(names);
    if (best == 0) break;
  }
  if (match(base_) > 0) {
    std::vector<std::string> known;
    for (const layout::Expr::Input& tensor : base_.hf_tensors) known.push_back(peft_module(tensor.name));
    ProblemList problems;
    for (const std::string& module : unmatched_) {
      const auto near = nearest(module, known);
      problems.add(fmt::format("{} is no module of it{}", module,
                               near ? fmt::format(" (did you mean \"{}\"?)", *near) : std::string()));
    }
    throw UserError(fmt::format("{} is an adapter for another model than {} ({}); {}", path_.string(),
                                base.path().string(), base.arch().family, problems.text()));
  }
}

int64_t PeftFolder::rank_of(int32_t tensor) const {
  const Place& a = at_.at(tensor)[0];
  const int64_t rows = a.stored->shape.rank() == 2 ? a.stored->shape[0] : 0;
  const Shape& weight = base_.hf_tensors[static_cast<size_t>(tensor)].shape;
  int64_t experts = a.experts;
  if (weight.rank() == 3) experts = weight[0];
  return experts ? rows / experts : rows;
}

// All first halves (lora_A) of a layer's parts have the same bytes.
bool PeftFolder::equal_first_halves(const std::vector<int32_t>& tensors) const {
  const Place& first = at_.at(tensors[0])[0];
  std::vector<std::byte> bytes;
  for (size_t i = 1; i < tensors.size(); ++i) {
    const Place& other = at_.at(tensors[i])[0];
    if (other.stored == first.stored && other.expert == first.expert) continue;
    if (other.stored->dtype != first.stored->dtype || other.stored->shape != first.stored->shape) return false;
    if (bytes.empty()) bytes = formats::read_tensor(*file_.reader, *first.stored, 1u << 30);
    if (formats::read_tensor(*file_.reader, *other.stored, 1u << 30) != bytes) return false;
  }
  return true;
}

void PeftFolder::choose_linears(PeftView view) {
  ProblemList problems;
  const bool dora = spec_.kind == AdapterKind::kDora;
  for (auto& [id, place] : at_) {
    const std::string& weight = base_.hf_tensors[static_cast<size_t>(id)].name;
    if (!place[0].stored || !place[1].stored)
      problems.add(fmt::format("{} has lora_{} and no lora_{}", weight, place[0].stored ? "A" : "B",
                               place[0].stored ? "B" : "A"));
    else if (dora && !place[2].stored)
      problems.add(fmt::format("{} has no lora_magnitude_vector, although use_dora is true", weight));
    else if (!dora && place[2].stored)
      problems.add(fmt::format("{} has a lora_magnitude_vector, although use_dora is false", weight));
    else if (rank_of(id) < 1)
      problems.add(fmt::format("{}: lora_A is {}, not a matrix", weight, place[0].stored->shape));
  }
  VIADUCT_USER_CHECK(problems.empty(), "{} is not complete; {}", file_.path, problems.text());

  struct Group {
    size_t parameter;
    std::vector<int32_t> all;
    std::vector<int> present;
    bool fused;
  };
  std::vector<Group> groups;
  std::set<int32_t> used;
  bool all_fused = true;
  for (size_t p = 0; p < base_.parameters.size(); ++p) {
    Group group{p, base_.tensors_of(p), {}, true};
    for (size_t i = 0; i < group.all.size(); ++i)
      if (at_.contains(group.all[i])) group.present.push_back(static_cast<int>(i));
    if (group.present.empty()) continue;
    VIADUCT_USER_CHECK(is_linear(base_.parameters[p]), "{}: {} is no linear layer, its adapter cannot be converted",
                       file_.path, base_.hf_tensors[static_cast<size_t>(group.all[0])].name);
    for (const int i : group.present) used.insert(group.all[static_cast<size_t>(i)]);
    if (group.all.size() > 1) {
      group.fused = group.present.size() == group.all.size();
      for (const int32_t id : group.all) group.fused = group.fused && rank_of(id) == rank_of(group.all[0]);
      group.fused = group.fused && (view == PeftView::kUpdates || equal_first_halves(group.all));
      all_fused &= group.fused;
    }
    groups.push_back(std::move(group));
  }
  VIADUCT_USER_CHECK(used.size() == at_.size(), "{}: some of its tensors adapt weights that are no linear layers",
                     file_.path);

  if (view == PeftView::kMegatron) canonical_ = !all_fused;
  if (view == PeftView::kCanonical) canonical_ = true;
  for (const Group& group : groups) {
    const std::string& name = base_.parameters[group.parameter].name;
    const bool single = group.all.size() == 1;
    const bool by_parts =
        view == PeftView::kUpdates || (canonical_ && !component_name(base_, group.parameter, 0).empty());
    if (single || !by_parts) {
      VIADUCT_USER_CHECK(single || group.fused,
                         "{}: the {} tensors that Megatron's {} is made of do not have all the same lora_A, and "
                         "Megatron has one for all of them{}. Merge the adapter into its base instead (viaduct "
                         "merge-lora)",
                         path_.string(), group.all.size(), name,
                         view == PeftView::kFused ? " unless it is canonical LoRA" : "");
      linears_.push_back({group.parameter, -1, rank_of(group.all[0])});
      continue;
    }
    VIADUCT_USER_CHECK(
        view == PeftView::kUpdates || !dora,
        "{}: the parts of {} have each a lora_A of their own, and Megatron has no DoRA of that kind. "
        "Merge the adapter into its base instead (viaduct merge-lora)",
        path_.string(), name);
    for (const int i : group.present)
      linears_.push_back({group.parameter, i, rank_of(group.all[static_cast<size_t>(i)])});
  }
}

void PeftFolder::locate() {
  stored_.files = file_.reader->files();
  own_.assign(graph_.hf_tensors.size(), -1);
  std::unordered_map<const StoredTensor*, int32_t> ids;
  const auto id_of = [&](const StoredTensor* stored) {
    const auto [it, fresh] = ids.try_emplace(stored, static_cast<int32_t>(stored_.tensors.size()));
    if (fresh) stored_.tensors.push_back(bridge::plain_tensor(*stored));
    return it->second;
  };
  ProblemList problems;
  std::vector<std::string> packed;
  for (const AdaptedLinear& linear : linears_)
    for (const int32_t id : base_.tensors_of(linear.parameter))
      if (const layout::Expr::Input& tensor = base_.hf_tensors[static_cast<size_t>(id)]; tensor.shape.rank() == 3)
        packed.push_back(tensor.name);
  std::sort(packed.begin(), packed.end());
  packed.erase(std::unique(packed.begin(), packed.end()), packed.end());

  const char* kEnds[] = {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"};
  std::unordered_map<std::string, int32_t> first_halves;  // the tensor that a lora_A belongs to
  for (const auto& [tensor, places] : at_) {
    const std::string prefix = peft_prefix(base_.hf_tensors[static_cast<size_t>(tensor)].name, packed);
    first_halves.emplace(prefix + kEnds[0], tensor);
    for (size_t half = 0; half < 3; ++half) {
      const Place& place = places[half];
      if (!place.stored) continue;
      const auto known = graph_.hf_ids.find(prefix + kEnds[half]);
      if (known == graph_.hf_ids.end()) continue;  // a copy, see below
      const auto id = static_cast<size_t>(known->second);
      const Shape& wanted = graph_.hf_tensors[id].shape;
      const Shape& found = place.stored->shape;
      if (place.experts == 0) {
        if (found != wanted) {
          problems.add(fmt::format("{} is {}, the base wants {}", place.stored->name, found, wanted));
          continue;
        }
        own_[id] = id_of(place.stored);
        continue;
      }
      // Row e * rank + k of lora_A, column k * experts + e of lora_B.
      const bool fits = half == 0 ? found == Shape{place.experts * wanted[0], wanted[1]}
                                  : found.rank() == 2 && found[0] >= place.first_row + wanted[0] &&
                                        found[1] == wanted[1] * place.experts;
      if (!fits) {
        problems.add(fmt::format("{} is {}, which does not fit {} experts of {}", place.stored->name, found,
                                 place.experts, wanted));
        continue;
      }
      Piece piece = bridge::whole_piece(id_of(place.stored), wanted);
      piece.from = half == 0 ? Box::dense({place.expert * wanted[0], 0}, wanted)
                             : Box::dense({place.first_row, place.expert}, wanted);
      if (half == 1) piece.from.stride[1] = place.experts;
      made_of_[id] = {piece};
    }
  }
  for (const auto& [copy, of] : copies_) {
    const Place& place = at_.at(first_halves.at(copy))[0];
    if (const int32_t original = own_[static_cast<size_t>(of)]; place.experts == 0 && original >= 0)
      ties_.push_back({id_of(place.stored), original});
  }
  VIADUCT_USER_CHECK(problems.empty(), "{} does not fit the base ({}); {}", file_.path, base_.arch.family,
                     problems.text());
}

void PeftFolder::fill_record(const bridge::Checkpoint& base) {
  record_.origin = path_.string();
  record_.format = std::string(file_.reader->format());
  record_.config = base.record().config;
  record_.side_files = bridge::find_side_files(path_);
  if (spec_.base_model.empty()) spec_.base_model = base.record().origin;
  if (file_.header.empty()) return;
  record_.shards.push_back({"adapter_model.safetensors", file_.header});
  for (const StoredTensor& stored : file_.reader->tensors())
    record_.tensors.push_back({stored.name, stored.dtype, stored.shape, 0});
}

}  // namespace

std::unique_ptr<Adapter> open_peft_folder(const Path& path, const bridge::Checkpoint& base,
                                          const AdapterOptions& options) {
  return std::make_unique<PeftFolder>(path, base, options);
}

}  // namespace viaduct::adapters
