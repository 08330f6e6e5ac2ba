#include "viaduct/bridge/megatron_checkpoint.h"

#include <algorithm>
#include <unordered_map>

#include "viaduct/bridge/megatron_config.h"
#include "viaduct/bridge/quantized_source.h"
#include "viaduct/bridge/stored_slices.h"
#include "viaduct/core/error.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/formats/hf_directory.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/rank_folders.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;
using formats::StoredChunk;
using formats::StoredTensor;
using models::LayerKeys;
using models::Parameter;

bool is_megatron_checkpoint(const Path& path) {
  if (!fs::is_directory(path)) return false;
  if (fs::exists(path / ".metadata") || fs::exists(path / "latest_checkpointed_iteration.txt") ||
      fs::exists(path / "latest_train_state.pt") || fs::is_directory(path / "release") ||
      fs::exists(path / "weights/.metadata") || formats::has_rank_folders(path))
    return true;
  for (const fs::directory_entry& entry : fs::directory_iterator(path))
    if (entry.is_directory() && entry.path().filename().string().starts_with("iter_")) return true;
  return false;
}

namespace {

// Tensors of a checkpoint that are not the model's weights.
std::optional<std::string> reason_unused(const std::string& key) {
  if (key.starts_with("optimizer.") || key.starts_with("chained_")) return "optimizer state";
  if (key.starts_with("rng_state")) return "random number generator state";
  if (key.find("._extra_state") != std::string::npos) return "Transformer Engine's extra state";
  if (key.starts_with("rerun_state_machine")) return "state of the rerun machine";
  return std::nullopt;
}

class MegatronCheckpoint : public Checkpoint {
 public:
  MegatronCheckpoint(const Path& path, const OpenOptions& options) : Checkpoint(World::kMegatron, path) {
    iteration_ = formats::resolve_iteration(path, options.iteration);
    reader_ = formats::TorchDistReader::open(iteration_);
    reader_->drop_prefix("module.");  // NeMo 2 stores its wrapper's name
    stored_.files = reader_->files();
    const std::vector<StoredTensor>& all = reader_->tensors();
    VIADUCT_USER_CHECK(all.empty() || std::any_of(all.begin(), all.end(),
                                                  [](const StoredTensor& tensor) {
                                                    return tensor.name.find(".adapter.") == std::string::npos;
                                                  }),
                       "{} holds adapters, not a model: viaduct export-adapter makes a PEFT folder of it, viaduct "
                       "merge-lora a model",
                       iteration_.string());
    const StoredTensor* embedding = reader_->find("embedding.word_embeddings.weight");
    if (const formats::PickleValue* args = reader_->common_state().find("args")) run_state_.args = *args;
    run_state_.iteration = reader_->iteration();
    MegatronConfig config = find_megatron_config(iteration_, run_state_.args, options,
                                                 embedding && !embedding->shape.empty() ? embedding->shape[0] : 0);
    record_ = std::move(config.record);
    graph_ = build_weight_graph(config.arch);
    locate();
    read_kept(options);
  }

 private:
  void read_kept(const OpenOptions& options);
  void locate();
  const StoredTensor* find_key(const std::string& key) const;
  bool is_kept_of_reference(const LogicalTensor& tensor) const;

  Path iteration_;
  std::unique_ptr<formats::TorchDistReader> reader_;
};

const StoredTensor* MegatronCheckpoint::find_key(const std::string& key) const {
  if (const StoredTensor* tensor = reader_->find(key)) return tensor;
  for (const std::string& other : models::alternative_keys(key))
    if (const StoredTensor* tensor = reader_->find(other)) return tensor;
  return nullptr;
}

void MegatronCheckpoint::locate() {
  // The file decides whether layers are stacked: the first layer's parameters are looked for in both forms.
  LayerKeys keys = models::layer_keys_for(graph_.arch);
  for (const Parameter& parameter : graph_.parameters) {
    if (parameter.layer < 0) continue;
    const bool stacked = find_key(state_keys(parameter, graph_.arch, LayerKeys::kStacked)[0].key);
    const bool single = find_key(state_keys(parameter, graph_.arch, LayerKeys::kPerLayer)[0].key);
    if (stacked != single) keys = stacked ? LayerKeys::kStacked : LayerKeys::kPerLayer;
    break;
  }

  std::unordered_map<const StoredTensor*, StoredSlices> indexes;
  ProblemList problems;
  // The stored tensor, or the slice of a stacked one, that holds a parameter or one component of it; -1 and a
  // report when it is not there as the model wants it.
  const auto locate_part = [&](const Parameter& parameter, const models::StateKey& key) -> int32_t {
    const StoredTensor* stored = find_key(key.key);
    if (!stored) {
      problems.add(fmt::format("missing: {} ({})", key.key, parameter.name));
      return -1;
    }
    const Shape wanted = key.stored_shape(parameter.shape);
    bool fits = stored->shape.rank() == wanted.rank();
    for (int axis = 0; fits && axis < wanted.rank(); ++axis) {
      // Rows of a vocabulary may be padded; the surplus is not part of the model.
      const bool rows = parameter.vocabulary && axis == key.prefix.rank();
      fits = rows ? stored->shape[axis] >= wanted[axis] : stored->shape[axis] == wanted[axis];
    }
    if (!fits) {
      problems.add(fmt::format("wrong shape: {} has {}, the model's configuration gives {}", key.key, stored->shape,
                               wanted));
      return -1;
    }
    const auto index = indexes.try_emplace(stored, *stored, key.prefix.rank()).first;
    stored_.tensors.push_back(index->second.slice(key.prefix));
    return static_cast<int32_t>(stored_.tensors.size()) - 1;
  };
  int32_t embedding = -1, output = -1;
  for (const Parameter& parameter : graph_.parameters) {
    const std::vector<models::StateKey> parts = state_keys(parameter, graph_.arch, keys);
    own_.push_back(-1);
    if (parts.size() == 1) {
      own_.back() = locate_part(parameter, parts[0]);
      if (parameter.vocabulary) (parameter.place == models::Place::kFirstStage ? embedding : output) = own_.back();
      continue;
    }
    layout::Pieces& pieces = made_of_[own_.size() - 1];
    for (const models::StateKey& part : parts) {
      const int32_t id = locate_part(parameter, part);
      if (id < 0) continue;
      layout::Piece piece = whole_piece(id, part.part_shape(parameter.shape));
      piece.to.offset[0] = part.begin;
      pieces.push_back(std::move(piece));
    }
  }
  if (graph_.arch.embedding.output_is_copy) ties_.push_back({output, embedding});
  for (const StoredTensor& tensor : reader_->tensors()) {
    if (indexes.contains(&tensor)) continue;
    if (auto reason = reason_unused(tensor.name)) {
      unused_.push_back({tensor.name, *reason});
    } else if (tensor.name == graph_.arch.language_module + "output_layer.weight" && graph_.arch.embedding.tied) {
      // A tied model's surplus copy: it must be one.
      unused_.push_back({tensor.name, "a copy of the embedding (they are tied)"});
      const auto id = static_cast<int32_t>(stored_.tensors.size());
      stored_.tensors.push_back(StoredSlices(tensor, 0).slice({}));
      ties_.push_back({id, embedding < 0 ? id : embedding});
    } else {
      problems.add(fmt::format("unknown: {} {} is not part of this architecture", tensor.name, tensor.shape));
    }
  }
  VIADUCT_USER_CHECK(problems.empty(), "{} does not hold the {} model that its configuration describes; {}",
                     iteration_.string(), graph_.arch.family, problems.text());
  const DType dtype = stored_.tensors[static_cast<size_t>(embedding)].dtype;
  if (is_floating(dtype)) graph_.arch.dtype = dtype;
}

// What import has kept for the way back: here, in another iteration of the run, or in the reference itself.
void MegatronCheckpoint::read_kept(const OpenOptions& options) {
  const auto add = [&](const StoredTensor& tensor) {
    PlainTensor plain = plain_tensor(tensor);
    for (PlainTensor::Chunk& chunk : plain.chunks) chunk.place.file += static_cast<uint32_t>(stored_.files.size());
    kept_.push_back(static_cast<int32_t>(stored_.tensors.size()));
    stored_.tensors.push_back(std::move(plain));
  };
  if (options.reference) {
    if (!formats::has_hf_weights(*options.reference)) return;
    const auto reader = formats::open_hf_directory(*options.reference);
    const std::vector<NamedTensor> listed = named_tensors(*reader);
    const LogicalTensors logical = logical_tensors(listed, read_quantization(record_), options.reference->string());
    for (const int32_t id : logical.beside) add(reader->tensors()[static_cast<size_t>(id)]);
    for (const LogicalTensor& tensor : logical.tensors)
      if (tensor.scales < 0 && is_kept_of_reference(tensor))
        add(reader->tensors()[static_cast<size_t>(tensor.stored)]);
    stored_.files.insert(stored_.files.end(), reader->files().begin(), reader->files().end());
    return;
  }
  std::vector<Path> places = sibling_iterations(iteration_);
  places.insert(places.begin(), iteration_);
  for (const Path& place : places) {
    const Path file = place / kKeptTensorsFile;
    if (!fs::exists(file)) continue;
    const formats::SafetensorsFile kept(file);
    for (const StoredTensor& tensor : kept.tensors()) add(tensor);
    stored_.files.push_back(file);
    return;
  }
}

// Of a reference's tensors those that import would have kept: what has no parameter, and originals of what Megatron
// holds rounded.
bool MegatronCheckpoint::is_kept_of_reference(const LogicalTensor& tensor) const {
  const auto it = graph_.hf_ids.find(std::string(tensor.name));
  if (it == graph_.hf_ids.end()) {
    const models::DerivedTensor* derived = graph_.family->table(graph_.arch.form).find_derived(tensor.name);
    return derived && !derived->is_copy();
  }
  const auto id = static_cast<size_t>(it->second);
  if (tensor.shape != graph_.hf_tensors[id].shape) return false;
  const int32_t parameter = graph_.parameters_of(id).at(0);
  const int32_t own = own_[static_cast<size_t>(parameter)];
  if (own < 0) return false;
  const DType stored = stored_.tensors[static_cast<size_t>(own)].dtype;
  return graph_.add_of_hf(id) != 0 ||
         (tensor.dtype == DType::kF32 && is_floating(stored) && element_size(stored) < 4);
}

}  // namespace

std::unique_ptr<Checkpoint> open_megatron_checkpoint(const Path& path, const OpenOptions& options) {
  return std::make_unique<MegatronCheckpoint>(path, options);
}

}  // namespace viaduct::bridge
