#include "viaduct/infer/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::infer {

namespace {

// `held` with room for `room` positions of tensors like `like`, and its first `length` positions kept.
at::Tensor grown(const at::Tensor& held, const at::Tensor& like, int64_t length, int64_t room) {
  std::vector<int64_t> sizes = like.sizes().vec();
  sizes[0] = room;
  at::Tensor result = at::empty(sizes, like.options());
  if (length > 0) result.narrow(0, 0, length).copy_(held.narrow(0, 0, length));
  return result;
}

}  // namespace

std::pair<at::Tensor, at::Tensor> KvCache::append(int index, const at::Tensor& keys, const at::Tensor& values) {
  Layer& layer = layers_[index];
  const int64_t positions = keys.size(0), length = layer.length + positions;
  VIADUCT_CHECK_LE(length, capacity_, "positions of layer {}", index);
  if (!layer.keys.defined() || layer.keys.size(0) < length) {
    const int64_t room = std::min(capacity_, std::max(length, 2 * layer.length));
    layer.keys = grown(layer.keys, keys, layer.length, room);
    layer.values = grown(layer.values, values, layer.length, room);
  }
  layer.keys.narrow(0, layer.length, positions).copy_(keys);
  layer.values.narrow(0, layer.length, positions).copy_(values);
  layer.length = length;
  return {layer.keys.narrow(0, 0, length), layer.values.narrow(0, 0, length)};
}

void KvCache::select(const at::Tensor& rows) {
  for (auto& [index, layer] : layers_) {
    layer.keys = layer.keys.index_select(1, rows);
    layer.values = layer.values.index_select(1, rows);
  }
}

}  // namespace viaduct::infer
