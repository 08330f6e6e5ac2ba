// Moves out of quantised weights: codes and scales are read, numbers are written.
#pragma once

#include "viaduct/bridge/copy_move.h"

namespace viaduct::bridge {

/// What copy_move does for a move with a form (Move::form).
void copy_scaled(const Move& move, SourceView& source, CopyScratch& scratch, std::byte* out);

}  // namespace viaduct::bridge
