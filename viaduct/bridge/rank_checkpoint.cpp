#include "viaduct/bridge/rank_checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <unordered_map>

#include "viaduct/bridge/megatron_config.h"
#include "viaduct/config/megatron_args.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/rank_folders.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/layout/split.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/topology/pipeline.h"

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

// A number in a name: decoder.layers.<N>, weight<N>.
std::optional<int64_t> number_at(std::string_view text, size_t at, size_t& end) {
  int64_t number = 0;
  const auto result = std::from_chars(text.data() + at, text.data() + text.size(), number);
  if (result.ec != std::errc() || number < 0 || number > 1'000'000) return std::nullopt;
  end = static_cast<size_t>(result.ptr - text.data());
  return number;
}

// One rank's tensor as the model's: its chunk of the virtual pipeline and the name behind it.
struct LocalName {
  int chunk = 0;
  std::string name;
};

// "model1.decoder.layers.0..." -> chunk 1; nullopt for what is no "model" or "model<N>".
std::optional<LocalName> local_name(std::string_view stored) {
  constexpr std::string_view kModel = "model";
  const size_t dot = stored.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  LocalName result;
  if (dot > kModel.size()) {
    size_t end = 0;
    const auto chunk = number_at(stored, kModel.size(), end);
    if (!chunk || end != dot || *chunk > 1024) return std::nullopt;
    result.chunk = static_cast<int>(*chunk);
  }
  result.name = stored.substr(dot + 1);
  if (result.name.starts_with("module.")) result.name.erase(0, 7);
  return result;
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
    find_layout();
    check_folders();
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
  void find_layout();
  void check_folders() const;
  void index_parameters();
  void read(const RankFolder& rank, TorchFileParts parts);
  void read_tensor(const RankFolder& rank, const StoredTensor& stored, uint32_t file);
  std::string global_name(const RankFolder& rank, const LocalName& local) const;
  int32_t find_parameter(const std::string& name) const;
  bool take(const RankFolder& rank, const StoredTensor& stored, uint32_t file, const Parameter& parameter,
            PlainTensor& tensor, std::vector<bool>& held);
  void finish();
  void note_unused(const std::string& what, const std::string& reason) { ++unused_counts_[{what, reason}]; }
  void report(std::string problem) {
    if (++num_problems_ <= 20) problems_.push_back(std::move(problem));
  }
  int shards_of(const Parameter& parameter) const {
    return parameter.split.is_replicated() ? 1 : parameter.expert >= 0 ? etp_ : tp_;
  }
  int shard_of(const Parameter& parameter, const RankFolder& rank) const { return rank.tp % shards_of(parameter); }
  int pp_of(const RankFolder& rank) const { return rank.pp(pp_ > 1); }
  int ep_of(const RankFolder& rank) const { return rank.ep(pp_ > 1); }

  std::vector<RankFolder> ranks_;
  PickleValue args_;
  int tp_ = 1, ep_ = 1, etp_ = 1, pp_ = 1;
  std::optional<topology::Pipeline> pipeline_;
  int64_t num_experts_ = 0;
  int32_t embedding_ = 0, output_ = 0;            // parameters
  std::unordered_map<std::string, int32_t> ids_;  // of parameters
  std::vector<PlainTensor> tensors_;              // [parameter]
  std::vector<std::vector<bool>> held_;           // [parameter][shard]
  std::map<std::string, Copy> copies_;
  std::map<std::pair<std::string, std::string>, size_t> unused_counts_;
  std::vector<std::string> problems_;
  size_t num_problems_ = 0;
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

topology::PipelineOptions pipeline_options(const config::ModelConfig& provider, const models::ArchSpec& arch) {
  const auto small = [](int64_t value) { return static_cast<int>(std::clamp<int64_t>(value, 0, 1 << 20)); };
  topology::PipelineOptions options;
  options.num_layers = small(arch.num_layers());
  options.mtp_num_layers = small(provider.mtp_num_layers.value_or(0));
  options.pipeline_model_parallel_size = small(provider.pipeline_model_parallel_size);
  options.virtual_pipeline_model_parallel_size = small(provider.virtual_pipeline_model_parallel_size.value_or(1));
  if (provider.num_layers_in_first_pipeline_stage)
    options.num_layers_in_first_pipeline_stage = small(*provider.num_layers_in_first_pipeline_stage);
  if (provider.num_layers_in_last_pipeline_stage)
    options.num_layers_in_last_pipeline_stage = small(*provider.num_layers_in_last_pipeline_stage);
  options.account_for_embedding_in_pipeline_split = provider.account_for_embedding_in_pipeline_split;
  options.account_for_loss_in_pipeline_split = provider.account_for_loss_in_pipeline_split;
  if (const config::Yaml& layout = provider.pipeline_model_parallel_layout; layout.is_string())
    options.pipeline_model_parallel_layout = topology::parse_layout(layout.as_string());
  return options;
}

// The layout: of the args, or, without them, of the folders' names.
void RankCheckpoint::find_layout() {
  topology::PipelineOptions options;
  if (config::is_namespace(args_)) {
    const config::ModelConfig provider = config::model_config_from_args(args_, ranks_.front().file.string());
    const auto size = [&](int64_t value, const char* name) {
      VIADUCT_USER_CHECK(value >= 1 && value <= 1 << 20, "{}: args.{} is {}", ranks_.front().file.string(), name,
                         value);
      return static_cast<int>(value);
    };
    tp_ = size(provider.tensor_model_parallel_size, "tensor_model_parallel_size");
    pp_ = size(provider.pipeline_model_parallel_size, "pipeline_model_parallel_size");
    ep_ = size(provider.expert_model_parallel_size, "expert_model_parallel_size");
    etp_ = size(provider.expert_tensor_parallel_size.value_or(tp_), "expert_tensor_parallel_size");
    options = pipeline_options(provider, graph_.arch);
  } else {
    tp_ = etp_ = ranks_.back().tp + 1;
    for (const RankFolder& rank : ranks_)
      if (!rank.further.empty()) pp_ = std::max(pp_, rank.further[0] + 1);
    for (const RankFolder& rank : ranks_) ep_ = std::max(ep_, ep_of(rank) + 1);
    options.num_layers = static_cast<int>(graph_.arch.num_layers());
    options.pipeline_model_parallel_size = pp_;
  }
  VIADUCT_USER_CHECK(
      tp_ % etp_ == 0,
      "{}: expert_tensor_parallel_size {} does not divide tensor_model_parallel_size {}: such ranks write "
      "into each other's folders in the torch format",
      path_.string(), etp_, tp_);
  pipeline_.emplace(options);
  if (const models::LayerSpec* layer = graph_.arch.moe_layer()) num_experts_ = layer->moe->num_experts;
  VIADUCT_USER_CHECK(num_experts_ % ep_ == 0 || num_experts_ == 0, "{}: {} experts among {} expert-parallel ranks",
                     path_.string(), num_experts_, ep_);
}

// Where experts are cut as all else is, every combination of ranks has a folder of its own.
void RankCheckpoint::check_folders() const {
  const size_t numbers = (pp_ > 1 ? 1u : 0u) + (ep_ > 1 ? 1u : 0u);
  VIADUCT_USER_CHECK(
      ranks_.front().further.size() == numbers,
      "{}: the folder {} does not fit the layout in its args: tensor-parallel {}, pipeline-parallel {}, "
      "expert-parallel {}",
      path_.string(), ranks_.front().name, tp_, pp_, ep_);
  std::vector<std::string> strays;
  std::vector<bool> there(static_cast<size_t>(tp_) * static_cast<size_t>(pp_));
  for (const RankFolder& rank : ranks_) {
    if (rank.tp >= tp_ || pp_of(rank) >= pp_ || ep_of(rank) >= ep_) {
      strays.push_back(rank.name);
    } else {
      there[static_cast<size_t>(rank.tp) * static_cast<size_t>(pp_) + static_cast<size_t>(pp_of(rank))] = true;
    }
  }
  VIADUCT_USER_CHECK(strays.empty(),
                     "{}: {} {} outside of the layout in the args (tensor-parallel {}, pipeline-parallel {}, "
                     "expert-parallel {}); move it away if it is of another run",
                     path_.string(), fmt::join(strays, ", "), strays.size() == 1 ? "lies" : "lie", tp_, pp_, ep_);
  std::vector<std::string> missing;
  const auto name = [&](int tp, int pp) {
    std::string text = fmt::format("mp_rank_{:02}", tp);
    if (pp_ > 1) text += fmt::format("_{:03}", pp);
    return ep_ > 1 ? text + "_*" : text;
  };
  if (ep_ > 1 && etp_ == tp_) {
    VIADUCT_USER_CHECK(
        ranks_.size() == there.size() * static_cast<size_t>(ep_),
        "{} holds {} mp_rank_* folders; tensor-parallel {}, pipeline-parallel {} and expert-parallel {} "
        "make {}: one is missing",
        path_.string(), ranks_.size(), tp_, pp_, ep_, there.size() * static_cast<size_t>(ep_));
  }
  for (size_t i = 0; i < there.size(); ++i)
    if (!there[i]) missing.push_back(name(static_cast<int>(i) / pp_, static_cast<int>(i) % pp_));
  VIADUCT_USER_CHECK(missing.empty(), "{}: missing: {} (tensor-parallel {}, pipeline-parallel {})", path_.string(),
                     fmt::join(missing, ", "), tp_, pp_);
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

// Layers count from the stage's first, experts from the rank's first.
std::string RankCheckpoint::global_name(const RankFolder& rank, const LocalName& local) const {
  std::string name = local.name;
  constexpr std::string_view kExperts = ".mlp.experts.", kSingle = "local_experts.";
  const std::string layers = graph_.arch.language_module + "decoder.layers.";
  size_t end = 0;
  if (name.starts_with(layers)) {
    if (const auto layer = number_at(name, layers.size(), end)) {
      VIADUCT_USER_CHECK(local.chunk < pipeline_->vpp(), "{}: model{} is no chunk of a pipeline with {} a stage",
                         rank.file.string(), local.chunk, pipeline_->vpp());
      const topology::Pipeline::Chunk chunk{pp_of(rank), local.chunk};
      name.replace(layers.size(), end - layers.size(), std::to_string(*layer + pipeline_->first_layer_of(chunk)));
    }
  }
  const size_t at = name.find(kExperts);
  if (at == std::string::npos || num_experts_ == 0) return name;
  const int64_t first = ep_of(rank) * (num_experts_ / ep_);
  const size_t behind = at + kExperts.size();
  if (name.compare(behind, kSingle.size(), kSingle) == 0) {
    // One module an expert: local_experts.3.linear_fc1.weight is linear_fc1.weight3.
    if (const auto expert = number_at(name, behind + kSingle.size(), end); expert && end < name.size())
      return name.substr(0, behind) + name.substr(end + 1) + std::to_string(*expert + first);
    return name;
  }
  const size_t digits = name.find_last_not_of("0123456789") + 1;
  if (digits == name.size()) return name;
  if (const auto expert = number_at(name, digits, end))
    name.replace(digits, std::string::npos, std::to_string(*expert + first));
  return name;
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
  const std::string name = global_name(rank, *local);
  const int32_t id = find_parameter(name);
  const bool tied_output =
      id < 0 && name == graph_.arch.language_module + "output_layer.weight" && graph_.arch.embedding.tied;
  if (id < 0 && !tied_output) {
    report(fmt::format("unknown: {} {} in {} is not part of this architecture{}", name, stored.shape, rank.name,
                       name.find(".mlp.experts.weight") != std::string::npos
                           ? " (grouped experts in one tensor are not supported: save it with Transformer Engine's "
                             "grouped experts)"
                           : ""));
    return;
  }
  // Stages that only need a copy of a tensor of another one: tied embeddings, and those of multi-token prediction.
  const Parameter& parameter = graph_.parameters[static_cast<size_t>(tied_output ? embedding_ : id)];
  const bool elsewhere = parameter.place == models::Place::kFirstStage && pp_of(rank) > 0;
  if (tied_output || elsewhere) {
    Copy& copy = copies_[fmt::format("{} of stage {}", name, pp_of(rank))];
    copy.original = parameter.name;
    take(rank, stored, file, parameter, copy.tensor, copy.held);
    return;
  }
  take(rank, stored, file, parameter, tensors_[static_cast<size_t>(id)], held_[static_cast<size_t>(id)]);
}

// Adds the rank's slice. Replicas of a slice that is already there are only compared in shape.
bool RankCheckpoint::take(const RankFolder& rank, const StoredTensor& stored, uint32_t file,
                          const Parameter& parameter, PlainTensor& tensor, std::vector<bool>& held) {
  const int shards = shards_of(parameter), shard = shard_of(parameter, rank);
  Shape whole = parameter.shape;
  if (parameter.vocabulary && stored.shape.rank() == whole.rank()) whole[0] = stored.shape[0] * shards;
  const auto wrong = [&] {
    report(fmt::format(
        "wrong shape: {} in {} has {}, the model's configuration gives {} for tensor-parallel rank {} of "
        "{}",
        stored.name, rank.name, stored.shape, parameter.shape, shard, shards));
    return false;
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
    report(fmt::format("ranks disagree: {} is {} {} in {}, of a whole {} {} in others", stored.name, stored.dtype,
                       stored.shape, rank.name, tensor.dtype, tensor.shape));
    return false;
  }
  if (held[static_cast<size_t>(shard)]) return true;
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
  return true;
}

void RankCheckpoint::finish() {
  const auto complete = [](const std::vector<bool>& held) {
    return !held.empty() && std::find(held.begin(), held.end(), false) == held.end();
  };
  for (size_t i = 0; i < graph_.parameters.size(); ++i) {
    if (complete(held_[i])) continue;
    const auto lacks = std::find(held_[i].begin(), held_[i].end(), false) - held_[i].begin();
    report(held_[i].empty()
               ? fmt::format("missing: {}", graph_.parameters[i].name)
               : fmt::format("missing: {} of tensor-parallel rank {}", graph_.parameters[i].name, lacks));
  }
  for (const auto& [name, copy] : copies_)
    if (!complete(copy.held)) report(fmt::format("missing: a rank's part of {}", name));
  VIADUCT_USER_CHECK(num_problems_ == 0,
                     "{} does not hold the {} model that its configuration describes; {} problem{}:\n  {}",
                     path_.string(), graph_.arch.family, num_problems_, num_problems_ == 1 ? "" : "s",
                     fmt::join(problems_, "\n  "));
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
