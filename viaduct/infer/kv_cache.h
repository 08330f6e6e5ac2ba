// KvCache: keys and values of the positions that a model has seen.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <utility>

#include "viaduct/nn/forward_pass.h"

namespace viaduct::infer {

/// For one batch of sequences of equal length (shorter ones padded on the left). Storage grows by doubling, up to
/// `capacity` positions.
class KvCache : public nn::AttentionCache {
 public:
  /// `capacity`: the most positions that will come. InternalError beyond.
  explicit KvCache(int64_t capacity) : capacity_(capacity) {}

  std::pair<at::Tensor, at::Tensor> append(int layer, const at::Tensor& keys, const at::Tensor& values) override;

  /// Positions of the layers so far. Between passes all layers have the same number.
  int64_t length() const { return layers_.empty() ? 0 : layers_.begin()->second.length; }
  /// Keeps only the sequences `rows` [n] int64 of the batch, in this order.
  void select(const at::Tensor& rows);

 private:
  struct Layer {
    at::Tensor keys;    // [room, b, ...]
    at::Tensor values;  // [room, b, ...]
    int64_t length = 0;
  };

  int64_t capacity_;
  std::map<int, Layer> layers_;
};

}  // namespace viaduct::infer
