#include "viaduct/bridge/view.h"

#include <algorithm>
#include <unordered_map>

#include "viaduct/bridge/plan_builder.h"

namespace viaduct::bridge {

namespace {

// The type in which a tensor's values are stored.
DType value_dtype(const View& view, const ViewTensor& tensor) {
  for (const layout::Piece& piece : tensor.pieces)
    if (!piece.is_fill()) return view.stored->tensors[static_cast<size_t>(piece.source)].dtype;
  return tensor.dtype;
}

bool same_parameters(const WeightGraph& a, const WeightGraph& b) {
  return std::equal(a.parameters.begin(), a.parameters.end(), b.parameters.begin(), b.parameters.end(),
                    [](const models::Parameter& one, const models::Parameter& other) {
                      return one.name == other.name && one.shape == other.shape;
                    });
}

}  // namespace

void add_to_plan(const View& view, const ViewTensor& tensor, DType dtype, uint32_t number, PlanBuilder& builder) {
  uint32_t encoder = kNoEncoder;
  if (tensor.original != layout::kNoTensor)
    encoder = builder.add_encoder(
        {value_dtype(view, tensor), kNoScales, builder.chunk_of(tensor.original), tensor.import_add});
  builder.add(Shape::filled(tensor.shape.rank(), 0), tensor.shape, dtype, tensor.pieces, number, 0, tensor.add,
              encoder);
}

View hf_view(const Checkpoint& checkpoint, const WeightGraph* other) {
  View view;
  view.stored = &checkpoint.stored();
  const bool translate = other && other->family == checkpoint.graph().family &&
                         other->arch.form != checkpoint.arch().form && same_parameters(*other, checkpoint.graph());
  const WeightGraph& graph = translate ? *other : checkpoint.graph();
  std::unordered_map<std::string_view, int32_t> kept;
  for (const int32_t id : checkpoint.kept())
    kept.emplace(checkpoint.stored().tensors[static_cast<size_t>(id)].name, id);
  for (size_t i = 0; i < graph.hf_tensors.size(); ++i) {
    const layout::Expr::Input& tensor = graph.hf_tensors[i];
    layout::Pieces pieces = translate ? checkpoint.hf_pieces_in(graph, i) : checkpoint.hf_pieces(i);
    ViewTensor seen{tensor.name, checkpoint.dtype_of(pieces), tensor.shape, std::move(pieces)};
    if (checkpoint.world() == World::kMegatron) {
      seen.import_add = graph.add_of_hf(i);
      seen.add = -seen.import_add;
      if (const auto it = kept.find(tensor.name); it != kept.end()) {
        seen.original = it->second;
        seen.dtype = checkpoint.stored().tensors[static_cast<size_t>(it->second)].dtype;
      }
    }
    view.tensors.push_back(std::move(seen));
  }
  return view;
}

View raw_view(const RawCheckpoint& checkpoint) {
  View view;
  view.stored = &checkpoint.stored;
  for (size_t i = 0; i < checkpoint.stored.tensors.size(); ++i) {
    const PlainTensor& tensor = checkpoint.stored.tensors[i];
    const DType dtype = is_block_quantized(tensor.dtype) ? DType::kF32 : tensor.dtype;
    view.tensors.push_back(
        {tensor.name, dtype, tensor.shape, {whole_piece(static_cast<int32_t>(i), tensor.shape)}});
  }
  return view;
}

}  // namespace viaduct::bridge
