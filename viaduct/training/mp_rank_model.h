// The parameters in the files of Megatron-LM's `torch` format, in the order in which optimizers are given them.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "viaduct/bridge/mp_rank_layout.h"
#include "viaduct/core/file.h"
#include "viaduct/formats/rank_folders.h"
#include "viaduct/formats/tensor_io.h"
#include "viaduct/models/parameters.h"

namespace viaduct::training {

/// A parameter in a rank's file.
struct RankTensor {
  const models::Parameter* parameter = nullptr;  // nullptr: of multi-token prediction, which the model is without
  formats::StoredTensor stored;                  // the rank's weight
  int chunk = 0;                                 // of the virtual pipeline
  bool expert = false;
  bool copy = false;  // of what another stage has: tied embeddings, those of multi-token prediction
};

/// The model as its ranks' folders have it.
class MpRankModel {
 public:
  /// `args`: Megatron-LM's arguments in the files. UserError as bridge::MpRankLayout. `arch` outlives it.
  MpRankModel(const Path& iteration, const formats::PickleValue& args, const models::ArchSpec& arch);
  MpRankModel(const MpRankModel&) = delete;
  MpRankModel& operator=(const MpRankModel&) = delete;

  /// Their folders, sorted by rank.
  const std::vector<formats::RankFolder>& ranks() const { return ranks_; }
  /// Which part of the model each has.
  const bridge::MpRankLayout& layout() const { return layout_; }
  /// The model that was given.
  const models::ArchSpec& arch() const { return arch_; }
  /// The parameters in a rank's file, in the order of the model's named_parameters(); `file`: the number of the
  /// file. UserError for a tensor that the model does not have, or has in another shape.
  std::vector<RankTensor> tensors_of(const formats::RankFolder& rank, uint32_t file) const;

 private:
  const models::Parameter* find_parameter(const std::string& name) const;

  const models::ArchSpec& arch_;
  std::vector<models::Parameter> parameters_;
  std::unordered_map<std::string, const models::Parameter*> by_name_;
  std::vector<formats::RankFolder> ranks_;
  bridge::MpRankLayout layout_;
};

/// Sets the file of all places of these tensors.
void set_file(std::vector<formats::StoredTensor>& tensors, uint32_t file);

}  // namespace viaduct::training
