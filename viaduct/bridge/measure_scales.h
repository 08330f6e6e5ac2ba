// Scales for weights that are to be quantised: the source's where they give every number of a block back, else new
// ones.
#pragma once

#include <vector>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/executor.h"
#include "viaduct/layout/piece.h"

namespace viaduct::bridge {

/// A weight that is to be quantised.
struct ScaledTarget {
  std::string name;        // for messages
  Shape shape;             // of its numbers
  int32_t hf_tensor = -1;  // of the target's graph
  uint32_t form = 0;       // index into a list of forms
  std::optional<Scales>
      original;         // scales of the source, in the same form; the file counts in StoredTensors::files
  uint64_t offset = 0;  // of its own scales in the file of measured scales
};

/// Gives every target its place in the file of measured scales; returns the file's size.
uint64_t place_scales(std::vector<ScaledTarget>& targets, const std::vector<ScaledForm>& forms);

/// Streams the weights once and writes their scales to `file`, row-major at each target's offset. Memory stays
/// bounded. `graph` names the weights; none: the source's own. A block's scale is the original where
/// dequantize(quantize(x)) then gives every number of the block bit for bit, else that of its largest magnitude
/// (scale_for). UserError naming a weight that holds a NaN or an infinity.
void measure_scales(const Checkpoint& source, const WeightGraph* graph, const std::vector<ScaledTarget>& targets,
                    const std::vector<ScaledForm>& forms, const Path& file, const ExecuteOptions& options);

}  // namespace viaduct::bridge
