// The optimizer state of Megatron-LM's `torch` format: each rank's file holds what its optimizer remembers of the
// rank's parameters, which have numbers there instead of names.
#pragma once

#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/tensor_io.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/topology/parallelism.h"

namespace viaduct::training {

/// A checkpoint of that form as tensors of the whole model, made of places in the ranks' files.
struct MpRankState {
  std::vector<Path> files;
  std::vector<formats::StoredTensor> tensors;  // weights under their KEY, the rest as "optimizer.state.NAME.KEY"
  formats::PickleValue common;  // of the first rank: optimizer (without its tensors) and opt_param_scheduler
};

/// Reads the indexes of all ranks' files in `iteration`, not the tensors. `args`: Megatron-LM's arguments in them.
/// `sizes`: the layout that will load it, which says where the padding of the vocabulary ends. UserError that names
/// file, group and place where an optimizer does not fit the model.
MpRankState read_mp_ranks(const Path& iteration, const formats::PickleValue& args, const models::ArchSpec& arch,
                          models::LayerKeys keys, const topology::Parallelism& sizes);

}  // namespace viaduct::training
