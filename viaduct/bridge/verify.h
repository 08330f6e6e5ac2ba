// Comparison of checkpoints bit by bit, in whatever form each is stored.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/executor.h"

namespace viaduct::bridge {

/// One tensor that is not the same on both sides.
struct Difference {
  std::string tensor;  // Hugging Face's name where the architecture is known
  std::string what;    // "only in A", "shape [2, 3] against [3, 2]", "element [0, 5]: 1.5 against 2 (...)"
};

struct Comparison {
  uint64_t tensors = 0;  // compared
  uint64_t bytes = 0;    // of one side
  std::vector<Difference> differences;
  bool equal() const { return differences.empty(); }
};

/// A tensor of one side: its pieces' source ids index StoredTensors::tensors.
struct ViewTensor {
  std::string name;
  DType dtype{};
  Shape shape;
  layout::Pieces pieces;
  float add = 0;                         // to each value
  int32_t original = layout::kNoTensor;  // a tensor whose elements count where, imported, they are the values ...
  float import_add = 0;                  // ... with this added
};

/// What of a checkpoint is compared.
struct View {
  const StoredTensors* stored = nullptr;
  std::vector<ViewTensor> tensors;
};

class PlanBuilder;

/// Adds a view's tensor, whole and as `dtype`, as the next target chunk of a plan that reads view.stored.
void add_to_plan(const View& view, const ViewTensor& tensor, DType dtype, uint32_t number, PlanBuilder& builder);

/// The checkpoint's Hugging Face tensors; where `other` has the same parameters in another form (experts in one
/// tensor, or turned), the tensors of that form.
View hf_view(const Checkpoint& checkpoint, const WeightGraph* other = nullptr);
/// The tensors as they are stored.
View raw_view(const RawCheckpoint& checkpoint);

/// Compares tensors of equal names: presence, dtype, shape, then every bit (NaN payloads included). Streams both
/// sides in bounded memory. Reports at most `limit` differences.
Comparison compare(const View& a, const View& b, const ExecuteOptions& options, size_t limit = 20);

/// Throws a UserError that names both tensors and the first element when a checkpoint's tied copies differ.
void check_ties(const Checkpoint& checkpoint, const ExecuteOptions& options);

}  // namespace viaduct::bridge
