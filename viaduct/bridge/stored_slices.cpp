#include "viaduct/bridge/stored_slices.h"

namespace viaduct::bridge {

using formats::StoredChunk;
using formats::StoredTensor;

StoredSlices::StoredSlices(const StoredTensor& tensor, int prefix_rank)
    : tensor_(tensor), prefix_rank_(prefix_rank) {
  for (const StoredChunk& chunk : tensor.chunks) {
    bool single = true;
    std::vector<int64_t> at;
    for (int axis = 0; axis < prefix_rank; ++axis) {
      single &= chunk.size[axis] == 1;
      at.push_back(chunk.offset[axis]);
    }
    if (single) {
      exact_[at].push_back(&chunk);
    } else {
      wide_.push_back(&chunk);
    }
  }
}

PlainTensor StoredSlices::slice(const Shape& prefix) const {
  PlainTensor plain;
  plain.name = tensor_.name;
  plain.dtype = tensor_.dtype;
  for (int axis = prefix_rank_; axis < tensor_.shape.rank(); ++axis) plain.shape.push_back(tensor_.shape[axis]);
  const std::vector<int64_t> at(prefix.begin(), prefix.end());
  if (const auto it = exact_.find(at); it != exact_.end())
    for (const StoredChunk* chunk : it->second) add(plain, *chunk, prefix);
  for (const StoredChunk* chunk : wide_) {
    bool inside = true;
    for (int axis = 0; axis < prefix_rank_; ++axis)
      inside &= prefix[axis] >= chunk->offset[axis] && prefix[axis] < chunk->offset[axis] + chunk->size[axis];
    if (inside) add(plain, *chunk, prefix);
  }
  return plain;
}

void StoredSlices::add(PlainTensor& plain, const StoredChunk& chunk, const Shape& prefix) const {
  const Shape strides = chunk.strides.empty() ? row_major_strides(chunk.size) : chunk.strides;
  PlainTensor::Chunk result;
  result.place.file = chunk.file;
  result.place.dtype = tensor_.dtype;
  int64_t skipped = 0;
  for (int axis = 0; axis < prefix_rank_; ++axis) skipped += (prefix[axis] - chunk.offset[axis]) * strides[axis];
  result.place.byte_offset = chunk.byte_offset + static_cast<uint64_t>(num_bytes(tensor_.dtype, skipped));
  for (int axis = prefix_rank_; axis < chunk.size.rank(); ++axis) {
    result.offset.push_back(chunk.offset[axis]);
    result.place.size.push_back(chunk.size[axis]);
    result.place.strides.push_back(strides[axis]);
  }
  if (result.place.strides == row_major_strides(result.place.size)) result.place.strides = {};
  plain.chunks.push_back(std::move(result));
}

}  // namespace viaduct::bridge
