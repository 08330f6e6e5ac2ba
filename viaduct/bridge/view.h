// Views: what a checkpoint's stored tensors are read as. As they are stored, as Hugging Face's tensors, or as the
// tensors of one rank (rank_view.h).
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/checkpoint.h"

namespace viaduct::bridge {

/// A tensor made of stored ones: its pieces' source ids index StoredTensors::tensors.
struct ViewTensor {
  std::string name;
  DType dtype{};
  Shape shape;
  layout::Pieces pieces;
  float add = 0;                         // to each value
  int32_t original = layout::kNoTensor;  // a tensor whose elements count where, imported, they are the values ...
  float import_add = 0;                  // ... with this added
};

/// Tensors to be compared, or to be read into memory.
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

}  // namespace viaduct::bridge
