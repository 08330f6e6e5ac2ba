#include "viaduct/nn/shard_of.h"

#include <ATen/ATen.h>

#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

at::Tensor box_of(at::Tensor tensor, const layout::Box& box) {
  for (int axis = 0; axis < box.rank(); ++axis) {
    const int64_t stride = box.stride.empty() ? 1 : box.stride[axis];
    tensor = tensor.slice(axis, box.offset[axis], box.offset[axis] + (box.size[axis] - 1) * stride + 1, stride);
  }
  return tensor;
}

at::Tensor shard_of(const at::Tensor& whole, const layout::ShardedTensor& sharded) {
  at::Tensor result = at::zeros(torchx::sizes_of(sharded.local_shape), whole.options());
  for (const layout::Piece& piece : sharded.pieces)
    if (!piece.is_fill()) box_of(result, piece.to).copy_(box_of(whole, piece.from));
  return result;
}

}  // namespace viaduct::nn
