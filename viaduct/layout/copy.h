// The plain way to carry pieces out, between tensors in memory.
#pragma once

#include <cstddef>
#include <span>

#include "viaduct/layout/piece.h"

namespace viaduct::layout {

/// A row-major tensor in memory; `bytes` holds num_elements(shape) elements.
struct SourceBuffer {
  Shape shape;
  std::span<const std::byte> bytes;
};
/// The same, to be written.
struct TargetBuffer {
  Shape shape;
  std::span<std::byte> bytes;
};

/// Copies every piece; fills become zero bytes, drops do nothing. Piece ids count in `sources` and `targets`, which
/// must not overlap in memory. InternalError when an id, a box or a buffer does not fit.
void execute_in_memory(const Pieces& pieces, std::span<const SourceBuffer> sources,
                       std::span<const TargetBuffer> targets, int64_t element_size);

}  // namespace viaduct::layout
