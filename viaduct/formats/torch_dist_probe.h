// Where the elements lie inside of the entries of torch_dist data files.
#pragma once

#include "viaduct/formats/tensor_io.h"
#include "viaduct/formats/torch_dist_metadata.h"

namespace viaduct::formats {

/// The index's tensors with the places of their elements (byte_offset, strides): every entry's zip directory,
/// pickle and local header are read, neighbours with one read, on several threads when there are many. `files` are
/// the index's. UserError as open_torch_dist says.
std::vector<StoredTensor> locate_chunks(const TorchDistIndex& index, const std::vector<Path>& files);

}  // namespace viaduct::formats
