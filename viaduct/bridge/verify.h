// Comparison of checkpoints bit by bit, in whatever form each is stored.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/view.h"

namespace viaduct::bridge {

/// One tensor that is not the same on both sides.
struct Difference {
  std::string tensor;  // Hugging Face's name where the architecture is known
  std::string what;    // "only in A", "shape [2, 3] against [3, 2]", "element [0, 5]: 1.5 against 2 (...)"
};

/// What was compared, and what differs.
struct Comparison {
  uint64_t tensors = 0;  // compared
  uint64_t bytes = 0;    // of one side
  std::vector<Difference> differences;
  /// Has no difference been found?
  bool equal() const { return differences.empty(); }
};

/// Compares tensors of equal names: presence, dtype, shape, then every bit (NaN payloads included). Streams both
/// sides in bounded memory. Reports at most `limit` differences.
Comparison compare(const View& a, const View& b, const ExecuteOptions& options, size_t limit = 20);

/// Throws a UserError that names both tensors and the first element when a checkpoint's tied copies differ.
void check_ties(const Checkpoint& checkpoint, const ExecuteOptions& options);

}  // namespace viaduct::bridge
