// LiveModel: the parameters that the modules of a rank hold, matched by name with those that the model has, and
// what every other rank holds of them.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/rank_layout.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/parallel/mesh.h"

namespace viaduct::nn {

/// The model of one rank: its model chunks, vpp of them, in the order of the pipeline. Names and shapes of their
/// parameters and buffers are those of bridge::rank_parameters.
using ModelChunks = std::vector<std::shared_ptr<torch::nn::Module>>;

/// Does a parameter or buffer of a module keep its own values when the checkpoint has none for it?
using KeepsItsValues = std::function<bool(std::string_view name)>;

/// What one rank holds of a parameter, live.
struct LiveTensor {
  bridge::RankParameter parameter;
  at::Tensor tensor;  // shares the storage of the module's; outside of autograd
};

/// The rank of `mesh` as bridge::rank_parameters counts them, whatever the order in which the mesh numbers its
/// ranks.
int grid_rank(const topology::Parallelism& sizes, const topology::Coordinates& place);

/// The device that the modules' parameters are on; the CPU when there are none.
c10::Device device_of(const ModelChunks& chunks);

/// The tensors of this rank, in the order of rank_parameters; those of multi-token prediction only where there are
/// modules of it. UserError that begins with `source`, where the model comes from, and lists every difference:
/// chunks that are too many or too few, names that only the modules or only the model has, other shapes, types that
/// hold no weights.
std::vector<LiveTensor> match_modules(const ModelChunks& chunks, const models::ArchSpec& arch,
                                      const parallel::Mesh& mesh, std::string_view source,
                                      const KeepsItsValues& keeps = nullptr);

}  // namespace viaduct::nn
