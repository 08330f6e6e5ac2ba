#include "viaduct/bridge/rank_view.h"

#include "viaduct/bridge/plan_parameters.h"
#include "viaduct/bridge/rank_layout.h"

namespace viaduct::bridge {

std::vector<ModelChunk> rank_view(const Checkpoint& source, const MegatronTarget& target, int rank) {
  std::vector<ModelChunk> chunks(static_cast<size_t>(target.parallel.vpp));
  for (ModelChunk& chunk : chunks) chunk.view.stored = &source.stored();
  for (RankParameter& held : rank_parameters(source.arch(), target.parallel, rank)) {
    const auto id = static_cast<size_t>(held.parameter);
    const models::Parameter& parameter = source.graph().parameters[id];
    const layout::Pieces whole = source.parameter_pieces(id);
    ViewTensor tensor{std::move(held.name), target_dtype(source, parameter, source.dtype_of(whole), target.dtype),
                      held.tensor.local_shape, layout::compose(whole, held.tensor.pieces),
                      add_on_import(source, id)};
    ModelChunk& chunk = chunks[static_cast<size_t>(held.chunk)];
    chunk.view.tensors.push_back(std::move(tensor));
    chunk.parameters.push_back(parameter.name);
  }
  return chunks;
}

}  // namespace viaduct::bridge
