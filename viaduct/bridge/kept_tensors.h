// What the Megatron form cannot hold of a source, streamed beside it: scales of quantised weights, rotary
// frequencies, and originals of tensors that import rounds.
#pragma once

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/plan_builder.h"

namespace viaduct::bridge {

/// Adds every tensor of source.kept() and the `originals` (indices into its stored tensors), as they are stored, to
/// a plan whose own tensors are counted below `first_tensor`. Returns the layout of their file, kKeptTensorsFile;
/// without files when there is none to keep.
formats::TargetLayout add_kept_tensors(const Checkpoint& source, const std::vector<int32_t>& originals,
                                       uint32_t first_tensor, PlanBuilder& builder);

/// `to` with the files and tensors of `more` behind its own.
void append_layout(formats::TargetLayout& to, formats::TargetLayout more);

}  // namespace viaduct::bridge
