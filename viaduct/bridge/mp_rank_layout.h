// How the ranks of a checkpoint in Megatron-LM's `torch` format cut the model, and what the names in a rank's file
// mean.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/rank_folders.h"
#include "viaduct/models/parameters.h"
#include "viaduct/topology/pipeline.h"

namespace viaduct::bridge {

/// One rank's tensor as the rank calls it: its chunk of the virtual pipeline and the name behind it.
struct LocalName {
  int chunk = 0;
  std::string name;
};

/// "model1.decoder.layers.0..." is chunk 1; nullopt for what is no "model" or "model<N>".
std::optional<LocalName> local_name(std::string_view stored);

/// Which part of the model a rank's folder holds.
class MpRankLayout {
 public:
  /// The layout of the args (None: of the folders' names). UserError when it is none that the format can hold, and
  /// when the folders in `iteration` are not those of its ranks. `ranks` and `arch` outlive it.
  MpRankLayout(const Path& iteration, const std::vector<formats::RankFolder>& ranks,
               const formats::PickleValue& args, const models::ArchSpec& arch);

  /// How many pipeline stages there are.
  int pp() const { return pp_; }
  /// The rank among the pipeline stages.
  int pp_of(const formats::RankFolder& rank) const { return rank.pp(pp_ > 1); }
  /// The rank among the expert-parallel ranks.
  int ep_of(const formats::RankFolder& rank) const { return rank.ep(pp_ > 1); }

  /// Into how many parts a parameter is cut, and which of them a rank holds.
  int shards_of(const models::Parameter& parameter) const {
    return parameter.split.is_replicated() ? 1 : parameter.expert >= 0 ? etp_ : tp_;
  }
  int shard_of(const models::Parameter& parameter, const formats::RankFolder& rank) const {
    return rank.tp % shards_of(parameter);
  }
  /// The model's name for a rank's: there layers count from the stage's first, experts from the rank's first.
  std::string global_name(const formats::RankFolder& rank, const LocalName& local) const;

 private:
  void find_sizes(const formats::PickleValue& args);
  void check_folders() const;

  const Path iteration_;
  const std::vector<formats::RankFolder>& ranks_;
  const models::ArchSpec& arch_;
  int tp_ = 1, ep_ = 1, etp_ = 1, pp_ = 1;
  std::optional<topology::Pipeline> pipeline_;
  int64_t num_experts_ = 0;
};

}  // namespace viaduct::bridge
