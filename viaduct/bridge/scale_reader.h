// The scales of a tensor of codes, for runs of its elements.
#pragma once

#include <array>

#include "viaduct/bridge/copy_move.h"

namespace viaduct::bridge {

/// Reads the scales of one tensor, and keeps those that it read last. Not thread-safe.
class ScaleReader {
 public:
  /// Elements that a run has at most.
  static constexpr int64_t kMostElements = 4096;

  /// Of a tensor of shape `size`. The form outlives the reader.
  ScaleReader(const ScaledForm& form, const Scales& place, const Shape& size);

  /// Elements that follow each other in one row.
  struct Run {
    int64_t count = 0;
    const float* scales = nullptr;  // the first element's, then one for each block; until the next call
    int64_t skip = 0;               // elements of the first block before the run
  };
  /// The run that begins at element `first` in row-major order, of at most `most` elements. `scratch` holds
  /// CopyScratch::kBytes.
  Run read(int64_t first, int64_t most, SourceView& source, std::byte* scratch);

  /// Elements along the last axis that share a scale.
  int64_t block() const { return form_.block[last_]; }

 private:
  const float* load(int64_t first, int64_t count, SourceView& source, std::byte* scratch);

  const ScaledForm& form_;
  const Scales place_;
  const Shape size_;
  const Shape steps_;  // of the grid of scales
  const int last_;
  // The same scales serve many runs: rows of one block, or a whole tensor.
  std::array<float, kMostElements + 1> loaded_;
  int64_t first_loaded_ = 0, num_loaded_ = 0;
};

}  // namespace viaduct::bridge
