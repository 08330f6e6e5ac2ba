#include "viaduct/nn/initialize.h"

#include <ATen/ATen.h>

#include <cmath>
#include <unordered_map>

#include "viaduct/bridge/rank_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/nn/shard_of.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

namespace {

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

// The deviation of the parameter's values; none: they are all `constant`.
struct Distribution {
  std::optional<double> deviation;
  double constant = 0;
};

Distribution distribution_of(std::string_view name, int64_t dimensions, const ModelContext& context) {
  const config::ModelConfig& config = context.config;
  const double deviation = config.init_method_std;
  if (contains(name, "norm"))
    return {std::nullopt, name.ends_with("weight") && !context.arch.norm.zero_centered ? 1.0 : 0.0};
  if (dimensions < 2) return {std::nullopt, 0};
  if (contains(name, "embedding."))
    return {config.embedding_init_method_std ? double{*config.embedding_init_method_std} : deviation};
  if (contains(name, "linear_proj.weight") || contains(name, "linear_fc2.weight"))
    return {deviation / std::sqrt(2.0 * static_cast<double>(context.arch.num_layers()))};
  return {deviation};
}

}  // namespace

void initialize_weights(const ModelChunks& chunks, const ModelContext& context, uint64_t seed) {
  const at::NoGradGuard no_grad;
  const topology::Parallelism& sizes = context.mesh->sizes();
  std::vector<std::unordered_map<std::string, at::Tensor>> held(chunks.size());
  for (size_t c = 0; c < chunks.size(); ++c) {
    for (const auto& item : chunks[c]->named_parameters()) held[c].emplace(item.key(), item.value().detach());
    for (const auto& item : chunks[c]->named_buffers()) held[c].emplace(item.key(), item.value());
  }
  for (const bridge::RankParameter& parameter :
       bridge::rank_parameters(context.arch, sizes, grid_rank(sizes, context.mesh->place()))) {
    auto& modules = held[static_cast<size_t>(parameter.chunk)];
    const auto found = modules.find(parameter.name);
    if (found == modules.end()) continue;  // of a part that does not run (multi-token prediction)
    at::Tensor tensor = found->second;
    modules.erase(found);
    const std::string& name = parameter.tensor.name;
    const Distribution distribution = distribution_of(name, tensor.dim(), context);
    if (!distribution.deviation) {
      tensor.fill_(distribution.constant);
      continue;
    }
    at::Generator generator = at::globalContext().defaultGenerator(tensor.device()).clone();
    generator.set_current_seed(seed ^ xxh3_64(name));
    const at::Tensor whole =
        at::normal(0.0, *distribution.deviation, torchx::sizes_of(parameter.tensor.global_shape), generator,
                   tensor.options().dtype(at::kFloat).requires_grad(false));
    tensor.copy_(shard_of(whole, parameter.tensor));
  }
  for (const auto& modules : held)
    VIADUCT_CHECK(modules.empty(), "{} has no first value: it is no parameter of the model",
                  modules.begin()->first);
}

}  // namespace viaduct::nn
