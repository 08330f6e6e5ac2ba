#include "viaduct/bridge/rank_checkpoint.h"

#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>

#include "viaduct/bridge/megatron_config.h"
#include "viaduct/bridge/mp_rank_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/formats/rank_folders.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/layout/split.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::bridge {

using formats::PickleValue;
using formats::RankFolder;
using formats::StoredTensor;
using formats::TorchFileParts;
using models::Parameter;

namespace {

constexpr std::array<std::string_view, 3> kValues = {"args", "checkpoint_version", "iteration"};

// Arguments in which all ranks of one run agree.
constexpr std::array<std::string_view, 11> kAgreed = {"num_layers",
                                                      "hidden_size",
                                                      "num_attention_heads",
                                                      "ffn_hidden_size",
                                                      "num_experts",
                                                      "padded_vocab_size",
                                                      "tensor_model_parallel_size",
                                                      "pipeline_model_parallel_size",
                                                      "virtual_pipeline_model_parallel_size",
                                                      "expert_model_parallel_size",
                                                      "iteration"};

TorchFileParts read_rank(const RankFolder& rank) { return formats::read_torch_parts(rank.file, "model", kValues); }

PickleValue value_in(const TorchFileParts& parts, std::string_view name) {
  const PickleValue* value = parts.values.find(name);
  return value ? *value : PickleValue();
}

class RankCheckpoint : public Checkpoint {
 public:
  RankCheckpoint(const Path& iteration, const OpenOptions& options)
      : Checkpoint(World::kMegatron, iteration), ranks_(formats::find_rank_folders(iteration)) {
    TorchFileParts first = read_rank(ranks_.front());
    check_version(first);
    args_ = value_in(first, "args");
    run_state_.args = args_;
    if (const PickleValue number = value_in(first, "iteration"); number.kind() == PickleValue::Kind::kInt)
      run_state_.iteration = number.as_int();
    MegatronConfig config = find_megatron_config(iteration, args_, options);
    record_ = std::move(config.record);
    graph_ = build_weight_graph(config.arch);
    layout_.emplace(iteration, ranks_, args_, graph_.arch);
    index_parameters();
    for (const RankFolder& rank : ranks_) read(rank, &rank == &ranks_.front() ? std::move(first) : read_rank(rank));
    finish();
  }

 private:
  // What is being collected of a copy that another stage holds: of the embedding, of tied output rows.
  struct Copy {
    PlainTensor tensor;
    std::vector<bool> held;
    std::string original;
  };

  void check_version(const TorchFileParts& parts) const;
  void index_parameters();
  void read(const RankFolder& rank, TorchFileParts parts);
  void read_tensor(const RankFolder& rank, const StoredTensor& stored, uint32_t file);
  int32_t find_parameter(const std::string& name) const;
  void take(const RankFolder& rank, const StoredTensor& stored, uint32_t file, const Parameter& parameter,
            PlainTensor& tensor, std::vector<bool>& held);
  void finish();
  void note_unused(const std::string& what, const std::string& reason) { ++unused_counts_[{what, reason}]; }

  std::vector<RankFolder> ranks_;
  PickleValue args_;
  std::optional<MpRankLayout> layout_;
  int32_t embedding_ = 0, output_ = 0;            // parameters
  std::unordered_map<std::string, int32_t> ids_;  // of parameters
  std::vector<PlainTensor> tensors_;              // [parameter]
  std::vector<std::vector<bool>> held_;           // [parameter][shard]
  std::map<std::string, Copy> copies_;
  std::map<std::pair<std::string, std::string>, size_t> unused_counts_;
  ProblemList problems_;
};

void RankCheckpoint::check_version(const TorchFileParts& parts) const {
  const PickleValue version = value_in(parts, "checkpoint_version");
  if (version.is_none()) return;
  VIADUCT_USER_CHECK(
      version.as_double() >= 3.0,
      "{} has checkpoint_version {}: before 3.0 the rows of query, key and value lie in another order, "
      "which is not supported. Load it in Megatron-LM and save it again",
      ranks_.front().file.string(), version.as_double());
}

void RankCheckpoint::index_parameters() {
  tensors_.resize(graph_.parameters.size());
  held_.resize(graph_.parameters.size());
  for (size_t i = 0; i < graph_.parameters.size(); ++i) {
    const Parameter& parameter = graph_.parameters[i];
    ids_.emplace(parameter.name, static_cast<int32_t>(i));
    if (parameter.vocabulary)
      (parameter.place == models::Place::kFirstStage ? embedding_ : output_) = static_cast<int32_t>(i);
  }
}

void RankCheckpoint::read(const RankFolder& rank, TorchFileParts parts) {
  const PickleValue args = value_in(parts, "args");
  for (const std::string_view name : kAgreed) {
    const PickleValue *ours = args.find(name), *theirs = args_.find(name);
    const bool same = ours && theirs ? *ours == *theirs : ours == theirs;
    VIADUCT_USER_CHECK(same, "ranks disagree: args.{} is {} in {} and {} in {}", name,
                       theirs ? theirs->to_text(40) : "missing", ranks_.front().file.string(),
                       ours ? ours->to_text(40) : "missing", rank.file.string());
  }
  const auto file = static_cast<uint32_t>(stored_.files.size());
  stored_.files.push_back(rank.file);
  for (const StoredTensor& stored : parts.tensors) read_tensor(rank, stored, file);
  for (const std::string& key : parts.other_keys) {
    const bool optimizer = key.starts_with("optimizer") || key == "opt_param_scheduler";
    const bool random = key.starts_with("rng_state");
    note_unused(key, optimizer ? "optimizer state"
                     : random  ? "random number generator state"
                               : "not part of the model's weights");
  }
}

int32_t RankCheckpoint::find_parameter(const std::string& name) const {
  if (const auto it = ids_.find(name); it != ids_.end()) return it->second;
  for (const std::string& other : models::alternative_keys(name))
    if (const auto it = ids_.find(other); it != ids_.end()) return it->second;
  return -1;
}

void RankCheckpoint::read_tensor(const RankFolder& rank, const StoredTensor& stored, uint32_t file) {
  const std::optional<LocalName> local = local_name(stored.name);
  if (!local) return note_unused(stored.name, "not part of the model's weights");
  if (stored.name.ends_with("_extra_state")) return note_unused("_extra_state", "Transformer Engine's extra state");
  VIADUCT_USER_CHECK(
      !local->name.starts_with("language_model.encoder") && !local->name.starts_with("encoder.layers"),
      "{} holds {}: a model of Megatron-LM's classes from before Megatron Core, which is not supported. "
      "Convert it with Megatron-LM's tools/checkpoint first",
      rank.file.string(), stored.name);
  const std::string name = layout_->global_name(rank, *local);
  const int32_t id = find_parameter(name);
  const bool tied_output =
      id < 0 && name == graph_.arch.language_module + "output_layer.weight" && graph_.arch.embedding.tied;
  if (id < 0 && !tied_output) {
    problems_.add(
        fmt::format("unknown: {} {} in {} is not part of this architecture{}", name, stored.shape, rank.name,
                    name.find(".mlp.experts.weight") != std::string::npos
                        ? " (grouped experts in one tensor are not supported: save it with Transformer Engine's "
                          "grouped experts)"
                        : ""));
    return;
  }
  // Stages that only need a copy of a tensor of another one: tied embeddings, and those of multi-token prediction.
  const Parameter& parameter = graph_.parameters[static_cast<size_t>(tied_output ? embedding_ : id)];
  const bool elsewhere = parameter.place == models::Place::kFirstStage && layout_->pp_of(rank) > 0;
  if (tied_output || elsewhere) {
    Copy& copy = copies_[fmt::format("{} of stage {}", name, layout_->pp_of(rank))];
    copy.original = parameter.name;
    take(rank, stored, file, parameter, copy.tensor, copy.held);
    return;
  }
  take(rank, stored, file, parameter, tensors_[static_cast<size_t>(id)], held_[static_cast<size_t>(id)]);
}

// Adds the rank's slice. Replicas of a slice that is already there are only compared in shape.
void RankCheckpoint::take(const RankFolder& rank, const StoredTensor& stored, uint32_t file,
                          const Parameter& parameter, PlainTensor& tensor, std::vector<bool>& held) {
  const int shards = layout_->shards_of(parameter), shard = layout_->shard_of(parameter, rank);
  Shape whole = parameter.shape;
  if (parameter.vocabulary && stored.shape.rank() == whole.rank()) whole[0] = stored.shape[0] * shards;
  const auto wrong = [&] {
    problems_.add(fmt::format(
        "wrong shape: {} in {} has {}, the model's configuration gives {} for tensor-parallel rank {} of "
        "{}",
        stored.name, rank.name, stored.shape, parameter.shape, shard, shards));
  };
  if (whole.rank() != stored.shape.rank() || whole[0] < parameter.shape[0]) return wrong();
  // Padding is at the end of all rows, so that the parts of a padded tensor are the ranks' slices.
  if (layout::shard_shape(parameter.split, whole, shards) != stored.shape) return wrong();
  if (held.empty()) {
    held.resize(static_cast<size_t>(shards));
    tensor.name = stored.name;
    tensor.dtype = stored.dtype;
    tensor.shape = whole;
  } else if (tensor.shape != whole || tensor.dtype != stored.dtype) {
    problems_.add(fmt::format("ranks disagree: {} is {} {} in {}, of a whole {} {} in others", stored.name,
                              stored.dtype, stored.shape, rank.name, tensor.dtype, tensor.shape));
    return;
  }
  if (held[static_cast<size_t>(shard)]) return;
  held[static_cast<size_t>(shard)] = true;

  const formats::StoredChunk& place = stored.chunks.at(0);
  const Shape strides = place.strides.empty() ? row_major_strides(stored.shape) : place.strides;
  int64_t at = 0;  // along the split's axis, in the rank's tensor
  for (const layout::Box& box : layout::shard_boxes(parameter.split, whole, shards, shard)) {
    PlainTensor::Chunk chunk;
    chunk.offset = box.offset;
    chunk.place.file = file;
    chunk.place.dtype = stored.dtype;
    chunk.place.size = box.size;
    chunk.place.byte_offset = place.byte_offset;
    if (!parameter.split.is_replicated()) {
      const int axis = parameter.split.axis;
      chunk.place.byte_offset += static_cast<uint64_t>(num_bytes(stored.dtype, at * strides[axis]));
      at += box.size[axis];
    }
    if (strides != row_major_strides(box.size)) chunk.place.strides = strides;
    tensor.chunks.push_back(std::move(chunk));
  }
}

void RankCheckpoint::finish() {
  const auto complete = [](const std::vector<bool>& held) {
    return !held.empty() && std::find(held.begin(), held.end(), false) == held.end();
  };
  for (size_t i = 0; i < graph_.parameters.size(); ++i) {
    if (complete(held_[i])) continue;
    const auto lacks = std::find(held_[i].begin(), held_[i].end(), false) - held_[i].begin();
    problems_.add(held_[i].empty()
                      ? fmt::format("missing: {}", graph_.parameters[i].name)
                      : fmt::format("missing: {} of tensor-parallel rank {}", graph_.parameters[i].name, lacks));
  }
  for (const auto& [name, copy] : copies_)
    if (!complete(copy.held)) problems_.add(fmt::format("missing: a rank's part of {}", name));
  VIADUCT_USER_CHECK(problems_.empty(), "{} does not hold the {} model that its configuration describes; {}",
                     path_.string(), graph_.arch.family, problems_.text());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    own_.push_back(static_cast<int32_t>(stored_.tensors.size()));
    stored_.tensors.push_back(std::move(tensors_[i]));
  }
  if (graph_.arch.embedding.output_is_copy)
    ties_.push_back({output_, embedding_});  // every parameter is a stored tensor
  for (auto& [name, copy] : copies_) {
    unused_.push_back({name, fmt::format("a copy of {}", copy.original)});
    ties_.push_back(
        {static_cast<int32_t>(stored_.tensors.size()), own_[static_cast<size_t>(ids_.at(copy.original))]});
    copy.tensor.name = name;
    stored_.tensors.push_back(std::move(copy.tensor));
  }
  for (const auto& [entry, count] : unused_counts_)
    unused_.push_back({count == 1 ? entry.first : fmt::format("{} ({} times)", entry.first, count), entry.second});
  for (const std::string& file : formats::other_rank_files(path_)) unused_.push_back({file, "optimizer state"});
  const DType dtype = stored_.tensors[static_cast<size_t>(embedding_)].dtype;
  if (is_floating(dtype)) graph_.arch.dtype = dtype;
  tensors_ = {};
  held_ = {};
  ids_ = {};
}

}  // namespace

std::unique_ptr<Checkpoint> open_rank_checkpoint(const Path& iteration, const OpenOptions& options) {
  return std::make_unique<RankCheckpoint>(iteration, options);
}

}  // namespace viaduct::bridge
