// A Megatron checkpoint that holds adapters: torch_dist with a `peft:` section in its run_config.yaml.
#include <unordered_map>

#include "viaduct/adapters/adapter_files.h"
#include "viaduct/bridge/megatron_config.h"
#include "viaduct/bridge/stored_slices.h"
#include "viaduct/config/run_config.h"
#include "viaduct/core/error.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/registry.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::adapters {

namespace fs = std::filesystem;
using bridge::WeightGraph;
using formats::StoredTensor;
using models::LayerKeys;
using models::Parameter;

namespace {

constexpr std::string_view kAdapter = ".adapter.";

// Training keeps run_config.yaml in the iteration; upstream's exporter also looks beside it.
std::optional<config::RunConfig> find_run_config(const Path& iteration) {
  for (const Path& file : {iteration / "run_config.yaml", iteration.parent_path() / "run_config.yaml"})
    if (fs::exists(file)) return config::read_run_config(file);
  return std::nullopt;
}

class MegatronAdapter : public Adapter {
 public:
  MegatronAdapter(const Path& path, std::optional<int64_t> iteration, const bridge::Checkpoint* base)
      : Adapter(bridge::World::kMegatron, path) {
    iteration_ = formats::resolve_iteration(path, iteration);
    reader_ = formats::TorchDistReader::open(iteration_);
    reader_->drop_prefix("module.");
    stored_.files = reader_->files();
    run_state_.iteration = reader_->iteration();
    const std::optional<config::RunConfig> run = find_run_config(iteration_);
    const std::string origin = (iteration_ / "run_config.yaml").string();
    VIADUCT_USER_CHECK(
        run && run->section("peft"),
        "{} has no run_config.yaml with a `peft:` section, so nothing says how strong its adapters are "
        "(alpha, dim)",
        iteration_.string());
    spec_ = read_peft_section(*run->section("peft"), origin);
    bridge::MegatronConfig own =
        bridge::find_megatron_config(iteration_, run_state_.args, {}, run->model.vocab_size.value_or(0));
    if (auto kept = bridge::find_record(iteration_)) record_ = std::move(*kept);
    record_.config = std::move(own.record.config);
    models::ArchSpec arch = base ? base->arch() : own.arch;
    tp_ = static_cast<int>(run->model.tensor_model_parallel_size);
    read_kept_config(run->document);
    choose_form(arch);
    find_linears(base);
    set_graph(build_adapter_graph(base_, linears_, spec_.kind == AdapterKind::kDora, tp_));
    locate();
  }

 private:
  void read_kept_config(const config::Yaml& document);
  void choose_form(const models::ArchSpec& arch);
  void find_linears(const bridge::Checkpoint* base);
  const StoredTensor* stored_half(const Parameter& parameter, const std::string& half) const;
  void locate();

  Path iteration_;
  std::unique_ptr<formats::TorchDistReader> reader_;
  int tp_ = 1;
  LayerKeys keys_ = LayerKeys::kStacked;
  std::vector<AdaptedLinear> linears_;
};

// What import kept of a PEFT folder tells of alphas that Megatron has no place for; it counts while the adapter is
// as strong as it was.
void MegatronAdapter::read_kept_config(const config::Yaml& document) {
  if (const config::Yaml* checkpoint = document.find("checkpoint"))
    if (const config::Yaml* base = checkpoint->find("pretrained_checkpoint"); base && base->is_string())
      spec_.base_model = base->as_string();
  const bridge::SideFile* file = record_.find("adapter_config.json");
  if (!file) return;
  AdapterSpec kept = read_peft_config(Json::parse(record_.read(*file), file->name), file->name);
  const double was = kept.scaling("", kept.rank), is = spec_.scaling("", spec_.rank);
  if (kept.rank != spec_.rank || was != is) return;
  const AdapterKind kind = spec_.kind;
  spec_ = std::move(kept);
  spec_.kind = kind;
}

// The names that the adapter's PEFT folder had; without one those that transformers' modules have.
void MegatronAdapter::choose_form(const models::ArchSpec& arch) {
  const std::vector<models::ArchSpec> forms = named_forms(arch);
  for (const models::ArchSpec& form : forms) {
    base_ = bridge::build_weight_graph(form);
    const bool fits = std::all_of(record_.tensors.begin(), record_.tensors.end(), [&](const auto& listed) {
      constexpr std::string_view kPrefix = "base_model.model.";
      const size_t end = listed.name.find(".lora_");
      if (!listed.name.starts_with(kPrefix) || end == std::string::npos) return false;
      const std::string module = listed.name.substr(kPrefix.size(), end - kPrefix.size());
      return base_.hf_ids.contains(module + ".weight") || module.ends_with(".experts") ||
             module.ends_with(".base_layer");
    });
    if (fits) return;
  }
  base_ = bridge::build_weight_graph(forms[0]);
}

// The stored tensor for one half of an adapter of `parameter`; nullptr when there is none.
const StoredTensor* MegatronAdapter::stored_half(const Parameter& parameter, const std::string& half) const {
  Parameter wanted = parameter;
  wanted.name = half;
  if (wanted.expert >= 0) wanted.name += std::to_string(wanted.expert);
  wanted.stored_parts = {};
  return reader_->find(state_keys(wanted, base_.arch, keys_)[0].key);
}

void MegatronAdapter::find_linears(const bridge::Checkpoint* base) {
  keys_ = models::layer_keys_for(base_.arch);
  const auto any_key = [&](const char* words) {
    for (const StoredTensor& tensor : reader_->tensors())
      if (tensor.name.find(words) != std::string::npos && tensor.name.find(kAdapter) != std::string::npos)
        return true;
    return false;
  };
  // Stacked layers have no number in their keys.
  if (any_key("decoder.layers.0.") || any_key("decoder.layers.1."))
    keys_ = LayerKeys::kPerLayer;
  else if (any_key("decoder.layers."))
    keys_ = LayerKeys::kStacked;
  for (size_t p = 0; p < base_.parameters.size(); ++p) {
    const Parameter& parameter = base_.parameters[p];
    if (!is_linear(parameter)) continue;
    const std::string prefix = adapter_prefix(parameter);
    const auto rank_of = [](const StoredTensor& in) { return in.shape[in.shape.rank() - 2]; };
    if (const StoredTensor* in = stored_half(parameter, prefix + "linear_in.weight"); in && in->shape.rank() >= 2) {
      linears_.push_back({p, -1, rank_of(*in)});
      continue;
    }
    const size_t parts = base_.tensors_of(p).size();
    for (int part = 0; part < static_cast<int>(parts); ++part) {
      const std::string_view name = component_name(base_, p, part);
      if (name.empty()) break;
      const StoredTensor* in = stored_half(parameter, fmt::format("{}{}.linear_in.weight", prefix, name));
      if (in && in->shape.rank() >= 2) linears_.push_back({p, part, rank_of(*in)});
    }
  }
  VIADUCT_USER_CHECK(!linears_.empty(), "{} holds no adapter of {}{}", iteration_.string(),
                     base ? base->path().string() : fmt::format("a {} model", base_.arch.family),
                     any_key(".") ? ": its adapters are those of another model" : "");
}

void MegatronAdapter::locate() {
  std::unordered_map<const StoredTensor*, bridge::StoredSlices> slices;
  ProblemList problems;
  const auto find = [&](const std::string& key) { return reader_->find(key); };
  const auto place = [&](const Parameter& parameter, const models::StateKey& key) -> int32_t {
    const StoredTensor* stored = find(key.key);
    if (!stored) {
      problems.add(fmt::format("missing: {} ({})", key.key, parameter.name));
      return -1;
    }
    const Shape wanted = key.stored_shape(parameter.shape);
    models::StateKey at = key;
    // Earlier releases stored the adapter that all experts of a layer share once, without the experts' axis.
    if (parameter.expert >= 0 && stored->shape.rank() == wanted.rank() - 1) {
      at.prefix = Shape(std::span(key.prefix.begin(), static_cast<size_t>(key.prefix.rank() - 1)));
      at.prefix_sizes =
          Shape(std::span(key.prefix_sizes.begin(), static_cast<size_t>(key.prefix_sizes.rank() - 1)));
    }
    if (stored->shape != at.stored_shape(parameter.shape)) {
      problems.add(fmt::format("wrong shape: {} has {}, the base wants {}", key.key, stored->shape, wanted));
      return -1;
    }
    const auto index = slices.try_emplace(stored, *stored, at.prefix.rank()).first;
    stored_.tensors.push_back(index->second.slice(at.prefix));
    return static_cast<int32_t>(stored_.tensors.size()) - 1;
  };
  for (const Parameter& parameter : graph_.parameters) {
    const std::vector<models::StateKey> parts = state_keys(parameter, graph_.arch, keys_);
    own_.push_back(-1);
    if (parts.size() == 1) {
      own_.back() = place(parameter, parts[0]);
      continue;
    }
    layout::Pieces& pieces = made_of_[own_.size() - 1];
    for (const models::StateKey& part : parts) {
      const int32_t id = place(parameter, part);
      if (id < 0) continue;
      layout::Piece piece = bridge::whole_piece(id, part.part_shape(parameter.shape));
      piece.to.offset[0] = part.begin;
      pieces.push_back(std::move(piece));
    }
  }
  for (const StoredTensor& tensor : reader_->tensors()) {
    if (slices.contains(&tensor)) continue;
    if (tensor.name.find(kAdapter) != std::string::npos && !tensor.name.starts_with("optimizer.")) {
      problems.add(fmt::format("unknown: {} {} adapts nothing of this model", tensor.name, tensor.shape));
    } else {
      unused_.push_back({tensor.name, "no part of an adapter"});
    }
  }
  VIADUCT_USER_CHECK(problems.empty(), "{} does not hold an adapter of the {} model that it is said to adapt; {}",
                     iteration_.string(), graph_.arch.family, problems.text());
}

}  // namespace

bool is_megatron_adapter(const Path& path) {
  if (!bridge::is_megatron_checkpoint(path)) return false;
  const std::optional<config::RunConfig> run = find_run_config(formats::resolve_iteration(path, std::nullopt));
  return run && run->has_peft;
}

std::unique_ptr<Adapter> open_megatron_adapter_of(const Path& path, const bridge::Checkpoint& base,
                                                  std::optional<int64_t> iteration) {
  return std::make_unique<MegatronAdapter>(path, iteration, &base);
}

std::unique_ptr<Adapter> open_megatron_adapter(const Path& path, std::optional<int64_t> iteration) {
  return std::make_unique<MegatronAdapter>(path, iteration, nullptr);
}

}  // namespace viaduct::adapters
