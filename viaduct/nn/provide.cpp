// A loaded model in a layout: upstream's provide_distributed_model.
#include <fmt/ranges.h>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/live.h"

namespace viaduct::nn {

namespace {

using models::LayerSpec;

// The numbers that the tensor-parallel ranks must be able to share in a layer.
void check_layer(const LayerSpec& layer, int tp, std::vector<std::string>& problems) {
  const auto add = [&](std::string problem) {
    if (std::find(problems.begin(), problems.end(), problem) == problems.end())
      problems.push_back(std::move(problem));
  };
  if (layer.mixer != models::Mixer::kAttention) return;
  const int64_t heads = layer.attention.num_heads, groups = layer.attention.num_query_groups;
  if (heads % tp != 0)
    add(fmt::format("--tp {} does not divide the {} attention heads: choose one that does", tp, heads));
  if (!layer.attention.mla && groups % tp != 0 && tp % groups != 0)
    add(fmt::format("--tp {} neither divides the {} query groups nor is a multiple of them", tp, groups));
}

}  // namespace

void check_runs(const models::ArchSpec& arch, const topology::Parallelism& sizes) {
  sizes.validate();
  bridge::check_layout(arch, sizes);  // its notes are those that are errors here
  std::vector<std::string> problems;
  const LayerSpec* last = nullptr;
  for (const LayerSpec& layer : arch.layers) {
    if (!last || !(*last == layer)) check_layer(layer, sizes.tp, problems);
    last = &layer;
  }
  if (arch.mtp)
    for (const LayerSpec& layer : arch.mtp->layers) check_layer(layer, sizes.tp, problems);
  VIADUCT_USER_CHECK(problems.empty(), "the {} model cannot run in this layout:\n  {}", arch.family,
                     fmt::join(problems, "\n  "));
}

ModelChunks provide_distributed_model(const bridge::Checkpoint& source, const parallel::Mesh& mesh,
                                      const MakeChunk& make, const LoadOptions& options) {
  check_runs(source.arch(), mesh.sizes());
  ModelChunks chunks;
  for (int chunk = 0; chunk < mesh.sizes().vpp; ++chunk) chunks.push_back(make(source.arch(), chunk));
  load_weights(source, chunks, mesh, options);
  return chunks;
}

}  // namespace viaduct::nn
