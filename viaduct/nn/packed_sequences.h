// Rows that hold several sequences, each of which is to keep to itself.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace viaduct::nn {

/// Where the sequences of packed rows are.
struct PackedSequences {
  /// Of each row: where its sequences begin, in order, the first at 0; then the row's end. Sequences may be empty.
  /// On the host: each sequence is an attention of its own.
  std::vector<std::vector<int64_t>> cu_seqlens;
};
/// As passes and masks hold it; null: every row is one sequence.
using PackedSequencesPtr = std::shared_ptr<const PackedSequences>;

}  // namespace viaduct::nn
