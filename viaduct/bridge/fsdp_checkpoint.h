// Megatron-FSDP's fsdp_dtensor format as a Checkpoint: plain DCP with the module's own names.
#pragma once

#include "viaduct/bridge/checkpoint.h"

namespace viaduct::bridge {

/// `iteration` holds a .metadata without metadata.json. UserError when its keys are no fsdp_dtensor's (a torch_dist
/// that was not finished), and for tensors that the model does not have, lacks, or has in another shape.
std::unique_ptr<Checkpoint> open_fsdp_checkpoint(const Path& iteration, const OpenOptions& options);

}  // namespace viaduct::bridge
