// StoredSlices: a stacked tensor of a torch_dist checkpoint as the tensors of its layers and experts.
#pragma once

#include <map>
#include <vector>

#include "viaduct/bridge/checkpoint.h"

namespace viaduct::bridge {

/// The chunks of one stored tensor, found by their index on its first `prefix_rank` axes.
class StoredSlices {
 public:
  /// `tensor` outlives it.
  StoredSlices(const formats::StoredTensor& tensor, int prefix_rank);

  /// The slice of the tensor at `prefix`, as a tensor of its own.
  PlainTensor slice(const Shape& prefix) const;

 private:
  void add(PlainTensor& plain, const formats::StoredChunk& chunk, const Shape& prefix) const;

  const formats::StoredTensor& tensor_;
  int prefix_rank_;
  std::map<std::vector<int64_t>, std::vector<const formats::StoredChunk*>> exact_;
  std::vector<const formats::StoredChunk*> wide_;
};

}  // namespace viaduct::bridge
