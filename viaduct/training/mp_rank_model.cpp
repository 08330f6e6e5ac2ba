#include "viaduct/training/mp_rank_model.h"

#include <optional>
#include <utility>

#include "viaduct/core/error.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/layout/split.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::training {

using formats::RankFolder;
using formats::StoredTensor;
using models::Parameter;

MpRankModel::MpRankModel(const Path& iteration, const formats::PickleValue& args, const models::ArchSpec& arch)
    : arch_(arch),
      parameters_(models::megatron_parameters(arch)),
      ranks_(formats::find_rank_folders(iteration)),
      layout_(iteration, ranks_, args, arch) {
  for (const Parameter& parameter : parameters_) by_name_.emplace(parameter.name, &parameter);
}

// A state dict lists the tensors of a module as named_parameters() does, with its buffers and extra states between.
std::vector<RankTensor> MpRankModel::tensors_of(const RankFolder& rank, uint32_t file) const {
  std::vector<RankTensor> own;
  std::vector<StoredTensor> tensors = formats::read_torch_parts(rank.file, "model", {}).tensors;
  set_file(tensors, file);
  const std::string embedding = arch_.language_module + "embedding.word_embeddings.weight";
  const std::string output = arch_.language_module + "output_layer.weight";
  for (StoredTensor& stored : tensors) {
    const std::optional<bridge::LocalName> local = bridge::local_name(stored.name);
    if (!local || stored.name.ends_with("_extra_state")) continue;
    const std::string name = layout_.global_name(rank, *local);
    const Parameter* parameter = find_parameter(name);
    const bool tied_output = !parameter && arch_.embedding.tied && name == output;
    if (tied_output) parameter = find_parameter(embedding);
    if (!parameter && name.starts_with(arch_.language_module + "mtp.")) {
      if (name.ends_with(".expert_bias")) continue;
      own.push_back(
          {nullptr, std::move(stored), local->chunk, name.find(".mlp.experts.") != std::string::npos, true});
      continue;
    }
    VIADUCT_USER_CHECK(parameter, "{}/{}: {} is no parameter of the {} model", rank.name, formats::kRankFile,
                       stored.name, arch_.family);
    if (parameter->stored_type == models::StoredType::kFloat32) continue;  // a buffer: the router's expert bias
    Shape whole = parameter->shape;
    const int shards = layout_.shards_of(*parameter);
    const bool same_rank = stored.shape.rank() == whole.rank();
    if (parameter->vocabulary && same_rank) whole[0] = stored.shape[0] * shards;
    VIADUCT_USER_CHECK(same_rank && layout::shard_shape(parameter->split, whole, shards) == stored.shape,
                       "{}/{}: {} has the shape {}, the model's configuration gives {} among {} ranks", rank.name,
                       formats::kRankFile, stored.name, stored.shape, parameter->shape, shards);
    const bool elsewhere = parameter->place == models::Place::kFirstStage && layout_.pp_of(rank) > 0;
    own.push_back({parameter, std::move(stored), local->chunk, parameter->expert >= 0, tied_output || elsewhere});
  }
  return own;
}

const Parameter* MpRankModel::find_parameter(const std::string& name) const {
  if (const auto found = by_name_.find(name); found != by_name_.end()) return found->second;
  for (const std::string& other : models::alternative_keys(name))
    if (const auto found = by_name_.find(other); found != by_name_.end()) return found->second;
  return nullptr;
}

void set_file(std::vector<StoredTensor>& tensors, uint32_t file) {
  for (StoredTensor& tensor : tensors)
    for (formats::StoredChunk& chunk : tensor.chunks) chunk.file = file;
}

}  // namespace viaduct::training
