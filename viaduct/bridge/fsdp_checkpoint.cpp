#include "viaduct/bridge/fsdp_checkpoint.h"

#include <array>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "viaduct/bridge/megatron_config.h"
#include "viaduct/core/error.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::bridge {

using formats::StoredChunk;
using formats::StoredTensor;
using models::Parameter;

namespace {

// The two halves of a gated MLP's first layer are stored apart: what the activation goes over, and the other. Other
// layers of several components have the parts that torch_dist has.
constexpr std::array<std::string_view, 2> kHalves = {"_w", "_v"};

class FsdpCheckpoint : public Checkpoint {
 public:
  FsdpCheckpoint(const Path& iteration, const OpenOptions& options)
      : Checkpoint(World::kMegatron, iteration), reader_(formats::TorchDistReader::open(iteration)) {
    stored_.files = reader_->files();
    index_names();
    const StoredTensor* embedding = find("embedding.word_embeddings.weight");
    if (const formats::PickleValue* args = reader_->common_state().find("args")) run_state_.args = *args;
    run_state_.iteration = reader_->iteration();
    MegatronConfig config = find_megatron_config(iteration, run_state_.args, options,
                                                 embedding && !embedding->shape.empty() ? embedding->shape[0] : 0);
    record_ = std::move(config.record);
    graph_ = build_weight_graph(config.arch);
    locate();
  }

 private:
  void index_names();
  const StoredTensor* find(const std::string& name) const {
    const auto it = names_.find(name);
    return it == names_.end() ? nullptr : it->second;
  }
  std::vector<const StoredTensor*> find_parts(const Parameter& parameter) const;
  void locate();
  bool fits(const Parameter& parameter, const std::vector<const StoredTensor*>& parts) const;
  PlainTensor joined(const Parameter& parameter, const std::vector<const StoredTensor*>& parts) const;

  std::unique_ptr<formats::TorchDistReader> reader_;
  std::unordered_map<std::string, const StoredTensor*> names_;  // in-memory names
};

// "model.module.decoder..." is decoder...; how many wrappers there were depends on the release.
void FsdpCheckpoint::index_names() {
  for (const StoredTensor& tensor : reader_->tensors()) {
    std::string_view name = tensor.name;
    if (!name.starts_with("model.")) continue;
    name.remove_prefix(6);
    while (name.starts_with("module.")) name.remove_prefix(7);
    VIADUCT_USER_CHECK(names_.emplace(name, &tensor).second, "{}: {} and {} are the same parameter", path_.string(),
                       names_.at(std::string(name))->name, tensor.name);
  }
  VIADUCT_USER_CHECK(!names_.empty(),
                     "{} has a .metadata but no metadata.json, and no tensor below \"model.\": neither a finished "
                     "torch_dist checkpoint nor Megatron-FSDP's fsdp_dtensor",
                     path_.string());
}

std::vector<const StoredTensor*> FsdpCheckpoint::find_parts(const Parameter& parameter) const {
  std::vector<std::string> names = {parameter.name};
  for (std::string& other : models::alternative_keys(parameter.name)) names.push_back(std::move(other));
  for (const std::string& name : names) {
    if (const StoredTensor* whole = find(name)) return {whole};
    const std::span<const std::string_view> suffixes =
        parameter.stored_parts.empty() ? std::span<const std::string_view>(kHalves) : parameter.stored_parts;
    if (parameter.split.components.size() != suffixes.size()) continue;
    std::vector<const StoredTensor*> parts;
    for (const std::string_view suffix : suffixes)
      if (const StoredTensor* tensor = find(name + std::string(suffix))) parts.push_back(tensor);
    if (parts.size() == suffixes.size()) return parts;
  }
  return {};
}

bool FsdpCheckpoint::fits(const Parameter& parameter, const std::vector<const StoredTensor*>& parts) const {
  for (size_t i = 0; i < parts.size(); ++i) {
    Shape wanted = parameter.shape;
    if (parts.size() > 1) wanted[parameter.split.axis] = parameter.split.components[i];
    const Shape& found = parts[i]->shape;
    if (found.rank() != wanted.rank()) return false;
    for (int axis = 0; axis < wanted.rank(); ++axis) {
      const bool rows = parameter.vocabulary && axis == 0;
      if (rows ? found[axis] < wanted[axis] : found[axis] != wanted[axis]) return false;
    }
  }
  return true;
}

PlainTensor FsdpCheckpoint::joined(const Parameter& parameter,
                                   const std::vector<const StoredTensor*>& parts) const {
  PlainTensor tensor = plain_tensor(*parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) {
    const int axis = parameter.split.axis;
    for (PlainTensor::Chunk chunk : plain_tensor(*parts[i]).chunks) {
      chunk.offset[axis] += tensor.shape[axis];
      tensor.chunks.push_back(std::move(chunk));
    }
    tensor.shape[axis] += parts[i]->shape[axis];
  }
  return tensor;
}

void FsdpCheckpoint::locate() {
  ProblemList problems;
  std::unordered_set<const StoredTensor*> used;
  int32_t embedding = -1, output = -1;
  for (const Parameter& parameter : graph_.parameters) {
    own_.push_back(-1);
    const std::vector<const StoredTensor*> parts = find_parts(parameter);
    used.insert(parts.begin(), parts.end());
    if (parts.empty()) {
      problems.add(fmt::format("missing: {}", parameter.name));
    } else if (!fits(parameter, parts)) {
      problems.add(fmt::format("wrong shape: {} has {}{}, the model's configuration gives {}{}", parts[0]->name,
                               parts[0]->shape, parts.size() > 1 ? " and further parts" : "", parameter.shape,
                               parts.size() > 1 ? " for all" : ""));
    } else if (parts.back()->dtype != parts[0]->dtype) {
      problems.add(fmt::format("{} is {} and {} is {}", parts[0]->name, parts[0]->dtype, parts.back()->name,
                               parts.back()->dtype));
    } else {
      own_.back() = static_cast<int32_t>(stored_.tensors.size());
      stored_.tensors.push_back(joined(parameter, parts));
      if (parameter.vocabulary) (parameter.place == models::Place::kFirstStage ? embedding : output) = own_.back();
    }
  }
  if (graph_.arch.embedding.output_is_copy) ties_.push_back({output, embedding});
  for (const StoredTensor& tensor : reader_->tensors()) {
    if (used.contains(&tensor)) continue;
    const bool model = tensor.name.starts_with("model.");
    if (!model || tensor.name.find("_extra_state") != std::string::npos) {
      unused_.push_back({tensor.name, tensor.name.starts_with("optimizer.") ? "optimizer state"
                                      : model                               ? "Transformer Engine's extra state"
                                                                            : "not part of the model's weights"});
    } else if (tensor.name.ends_with(".output_layer.weight") && graph_.arch.embedding.tied && embedding >= 0) {
      unused_.push_back({tensor.name, "a copy of embedding.word_embeddings.weight (the embeddings are tied)"});
      ties_.push_back({static_cast<int32_t>(stored_.tensors.size()), embedding});
      stored_.tensors.push_back(plain_tensor(tensor));
    } else {
      problems.add(fmt::format("unknown: {} {} is not part of this architecture", tensor.name, tensor.shape));
    }
  }
  VIADUCT_USER_CHECK(problems.empty(), "{} does not hold the {} model that its configuration describes; {}",
                     path_.string(), graph_.arch.family, problems.text());
  const DType dtype = stored_.tensors[static_cast<size_t>(embedding)].dtype;
  if (is_floating(dtype)) graph_.arch.dtype = dtype;
}

}  // namespace

std::unique_ptr<Checkpoint> open_fsdp_checkpoint(const Path& iteration, const OpenOptions& options) {
  return std::make_unique<FsdpCheckpoint>(iteration, options);
}

}  // namespace viaduct::bridge
