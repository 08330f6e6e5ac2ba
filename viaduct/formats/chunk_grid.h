// Do the chunks of a stored tensor cover it exactly once?
#pragma once

#include <string_view>

#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// UserError "<origin>: tensor <name> ..." that names the box when a chunk reaches outside the tensor, when two
/// chunks overlap or when a part of the tensor is in none. Any grid is allowed, regular or not; linear for the
/// grids that occur.
void check_chunk_grid(const StoredTensor& tensor, std::string_view origin);

}  // namespace viaduct::formats
