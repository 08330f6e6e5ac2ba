// Where a rank's tensors lie in the tensors of a checkpoint.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "viaduct/bridge/rank_layout.h"
#include "viaduct/layout/piece.h"
#include "viaduct/models/parameters.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/topology/rank_grid.h"

namespace viaduct::training {

/// A part of a rank's tensor that lies in one stored tensor.
struct StoredPart {
  std::string key;    // the stored tensor
  Shape shape;        // its shape
  Shape prefix;       // where the part lies on its prepended axes (layer, expert)
  Shape place;        // and where it begins on those behind them
  layout::Box local;  // the part, in the rank's tensor

  /// The box of the stored tensor that is this box of the rank's tensor, which lies in `local`.
  layout::Box stored(const layout::Box& box) const;
};

/// The model's parameters on one rank of any layout.
class RankState {
 public:
  /// The rank at `place` of a layout. UserError when the layout does not fit the model.
  RankState(const models::ArchSpec& arch, models::LayerKeys keys, const topology::Parallelism& sizes,
            const topology::Coordinates& place);

  /// In the order of the model's state dict.
  const std::vector<bridge::RankParameter>& held() const { return held_; }
  const models::Parameter& parameter(const bridge::RankParameter& held) const {
    return parameters_.at(static_cast<size_t>(held.parameter));
  }
  /// Which pipeline stage it is of.
  int stage() const { return place_.pp; }
  /// Parameters that are none of the model itself (an adapter's), by the chunk and the name there; a tensor may
  /// stand for several.
  void add(int chunk, const std::string& name, models::Parameter parameter);
  /// What a tensor of a chunk is. UserError for one that is neither of the model nor added.
  const std::vector<models::Parameter>& parameters(int chunk, const std::string& name) const;
  /// The parts of this rank's shard of a parameter, in the order in which they lie in it.
  std::vector<StoredPart> parts(const models::Parameter& parameter) const;
  /// Of the ranks of one replica of the model that hold the same of a parameter: is this the first?
  bool counts(const models::Parameter& parameter) const;

 private:
  const models::ArchSpec& arch_;
  models::LayerKeys keys_;
  topology::Parallelism sizes_;
  topology::Coordinates place_;
  std::vector<models::Parameter> parameters_;
  std::vector<bridge::RankParameter> held_;
  std::map<std::pair<int, std::string>, std::vector<models::Parameter>> by_name_;
};

}  // namespace viaduct::training
