#include "viaduct/nn/live_model.h"

#include <ATen/ATen.h>

#include <set>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

using bridge::RankParameter;
using topology::Coordinates;
using topology::Parallelism;

int grid_rank(const Parallelism& sizes, const Coordinates& place) {
  const topology::RankGrid grid(sizes);
  const int rank = grid.dense_rank(place);
  VIADUCT_CHECK(grid.coordinates(rank) == place, "the places of a rank among dense and expert layers differ");
  return rank;
}

c10::Device device_of(const ModelChunks& chunks) {
  for (const auto& chunk : chunks)
    for (const at::Tensor& parameter : chunk->parameters()) return parameter.device();
  return at::kCPU;
}

namespace {

std::unordered_map<std::string, at::Tensor> tensors_of(const torch::nn::Module& chunk) {
  std::unordered_map<std::string, at::Tensor> tensors;
  for (const auto& item : chunk.named_parameters()) tensors.emplace(item.key(), item.value().detach());
  for (const auto& item : chunk.named_buffers()) tensors.emplace(item.key(), item.value().detach());
  return tensors;
}

// Are there modules of multi-token prediction?
bool has_mtp(const ModelChunks& chunks, const models::ArchSpec& arch) {
  for (const auto& chunk : chunks)
    for (const auto& item : chunk->named_parameters())
      if (item.key().starts_with(arch.language_module + "mtp.")) return true;
  return false;
}

// What the rank holds of the model; a model that runs without multi-token prediction has nothing of it.
std::vector<RankParameter> wanted_parameters(const ModelChunks& chunks, const models::ArchSpec& arch,
                                             const Parallelism& sizes, int rank) {
  std::vector<RankParameter> wanted = bridge::rank_parameters(arch, sizes, rank);
  if (!arch.mtp || has_mtp(chunks, arch)) return wanted;
  models::ArchSpec without = arch;
  without.mtp.reset();
  std::set<std::pair<int, std::string>> runs;
  for (RankParameter& parameter : bridge::rank_parameters(without, sizes, rank))
    runs.emplace(parameter.chunk, std::move(parameter.name));
  std::erase_if(wanted, [&](const RankParameter& it) { return !runs.contains({it.chunk, it.name}); });
  return wanted;
}

}  // namespace

std::vector<LiveTensor> match_modules(const ModelChunks& chunks, const models::ArchSpec& arch,
                                      const parallel::Mesh& mesh, std::string_view source,
                                      const KeepsItsValues& keeps) {
  const Parallelism& sizes = mesh.sizes();
  std::vector<RankParameter> wanted = wanted_parameters(chunks, arch, sizes, grid_rank(sizes, mesh.place()));
  ProblemList problems;
  const auto at = [&](int chunk) {
    return sizes.vpp == 1 ? fmt::format("rank {}", mesh.rank())
                          : fmt::format("rank {}, chunk {}", mesh.rank(), chunk);
  };
  if (static_cast<int>(chunks.size()) != sizes.vpp)
    problems.add(
        fmt::format("rank {} has {} model chunks, and the layout has {}", mesh.rank(), chunks.size(), sizes.vpp));
  std::vector<std::unordered_map<std::string, at::Tensor>> held;
  for (const auto& chunk : chunks) held.push_back(tensors_of(*chunk));
  held.resize(static_cast<size_t>(sizes.vpp));

  std::vector<LiveTensor> result;
  for (RankParameter& parameter : wanted) {
    auto& modules = held[static_cast<size_t>(parameter.chunk)];
    const auto found = modules.find(parameter.name);
    if (found == modules.end()) {
      problems.add(fmt::format("{}: {} {} is in the model and in no module", at(parameter.chunk), parameter.name,
                               parameter.tensor.local_shape));
      continue;
    }
    const at::Tensor tensor = found->second;
    modules.erase(found);
    const Shape shape = torchx::shape_of(tensor);
    if (shape != parameter.tensor.local_shape)
      problems.add(fmt::format("{}: {} has the shape {} in the module, and {} in the model", at(parameter.chunk),
                               parameter.name, shape, parameter.tensor.local_shape));
    if (!at::isFloatingType(tensor.scalar_type()))
      problems.add(fmt::format("{}: {} has the type {}, which holds no weights", at(parameter.chunk),
                               parameter.name, c10::toString(tensor.scalar_type())));
    if (tensor.is_meta())
      problems.add(
          fmt::format("{}: {} has no storage (it is on the meta device)", at(parameter.chunk), parameter.name));
    result.push_back({std::move(parameter), tensor});
  }
  // In the order of the module, for the message.
  for (size_t c = 0; c < chunks.size() && c < held.size(); ++c) {
    const auto check = [&](const auto& items) {
      for (const auto& item : items)
        if (held[c].contains(item.key()) && !(keeps && keeps(item.key())))
          problems.add(fmt::format("{}: {} is in the module, and no tensor of the model fills it",
                                   at(static_cast<int>(c)), item.key()));
    };
    check(chunks[c]->named_parameters());
    check(chunks[c]->named_buffers());
  }
  VIADUCT_USER_CHECK(problems.empty(), "{}: the modules are not those of this {} model in this layout: {}", source,
                     arch.family, problems.text());
  return result;
}

}  // namespace viaduct::nn
