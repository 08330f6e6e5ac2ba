// The index of a torch_dist (torch DCP) checkpoint: its `.metadata` file, read and written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/dtype.h"
#include "viaduct/core/shape.h"

namespace viaduct::formats {

/// A run of bytes of a data file that holds one entry: a zip archive with one tensor chunk, or an object.
struct TorchDistPlace {
  uint32_t file = 0;  // index into TorchDistIndex::files
  uint64_t offset = 0;
  uint64_t size = 0;
};

/// A box of a tensor and the entry that holds it.
struct TorchDistChunk {
  Shape offset;  // of the box in the tensor
  Shape size;
  TorchDistPlace place;
};

/// A tensor of the whole model, with all chunks that the files have of it.
struct TorchDistTensor {
  std::string name;
  DType dtype{};
  Shape shape;
  std::vector<TorchDistChunk> chunks;
};

/// A bytes entry: anything that is no tensor.
struct TorchDistObject {
  std::string name;
  TorchDistPlace place;
};

/// What one process stored, or a whole checkpoint.
struct TorchDistIndex {
  std::vector<std::string> files;  // relative to the iteration folder, in order of first appearance
  std::vector<TorchDistTensor> tensors;
  std::vector<TorchDistObject> objects;
};

/// Reads `.metadata` of any torch since 2.1 and any megatron-core. UserError (with `origin` and the key) for what
/// is no such file, for element types that are not supported, for chunks without a place or places without a chunk,
/// for transformed (compressed) entries and for files outside of the folder. Chunk grids are not checked here.
TorchDistIndex parse_torch_dist_metadata(std::string bytes, std::string_view origin);

/// One index of many processes' parts. A tensor may have chunks in several parts; its dtype and shape must agree.
/// UserError when an object or file is there twice, or when the chunks do not cover a tensor exactly once.
TorchDistIndex merge_indices(std::vector<TorchDistIndex> parts);

/// The bytes of `.metadata`, as torch's Metadata, pickle protocol 4. `checkpoint_id` is the folder's path as
/// upstream notes it (nothing reads it); empty: none is noted.
std::string write_torch_dist_metadata(const TorchDistIndex& index, std::string_view checkpoint_id = {});

}  // namespace viaduct::formats
