// A torch_dist checkpoint as a Checkpoint.
#pragma once

#include "viaduct/bridge/checkpoint.h"

namespace viaduct::bridge {

/// Opens a root or an iteration's folder. UserError as open_checkpoint.
std::unique_ptr<Checkpoint> open_megatron_checkpoint(const Path& path, const OpenOptions& options);

}  // namespace viaduct::bridge
