// The one index step that may take a piece apart: the same elements in row-major order under another shape.
#pragma once

#include "viaduct/layout/piece.h"

namespace viaduct::layout {

/// `pieces` with targets in a tensor of shape `from`, seen in the same tensor under shape `to`. A piece that runs
/// over several axes which the reshape merges, or over an axis which it splits, becomes one piece for each outer
/// index; `simplify` joins those which form one box again. InternalError when the shapes hold different numbers of
/// elements or the result would have more than kMaxReshapedPieces.
Pieces reshape_targets(const Pieces& pieces, const Shape& from, const Shape& to);

/// The most pieces that a reshape may give.
inline constexpr size_t kMaxReshapedPieces = size_t{1} << 20;

}  // namespace viaduct::layout
