// Megatron-LM's `torch` format as a Checkpoint: the ranks' slices, joined into whole parameters.
#pragma once

#include "viaduct/bridge/checkpoint.h"

namespace viaduct::bridge {

/// `iteration` holds mp_rank_* folders. UserError when a rank's folder is missing, when ranks disagree, and for
/// tensors that the model does not have, lacks, or has in another shape.
std::unique_ptr<Checkpoint> open_rank_checkpoint(const Path& iteration, const OpenOptions& options);

}  // namespace viaduct::bridge
