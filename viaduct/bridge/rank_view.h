// What one rank of a parallel layout would hold of a checkpoint's weights: nothing is read until its tensors are.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/view.h"

namespace viaduct::bridge {

/// A model chunk of a rank: its tensors under the names that its module has (rank_layout.h's RankParameter).
struct ModelChunk {
  View view;
  std::vector<std::string> parameters;  // [tensor of the view]: the whole model's name of it
};

/// The vpp model chunks of rank `rank` of target.parallel, each tensor as an import with `target` stores it: type
/// cast, vocabulary padded with zeros. `source` outlives the views. UserError as rank_parameters.
std::vector<ModelChunk> rank_view(const Checkpoint& source, const MegatronTarget& target, int rank);

}  // namespace viaduct::bridge
