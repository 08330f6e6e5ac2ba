#include "viaduct/nn/gradients.h"

#include <ATen/ATen.h>

#include <unordered_map>
#include <unordered_set>

#include "viaduct/bridge/rank_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/models/parameters.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/linear_adapter.h"
#include "viaduct/nn/live_model.h"
#include "viaduct/nn/router.h"
#include "viaduct/nn/router_losses.h"

namespace viaduct::nn {

namespace {

// What must be known of a parameter's gradient, by the parameter.
struct Kind {
  bool whole = false;   // every tensor-parallel rank holds the whole parameter
  bool expert = false;  // reduced among the ranks of the same experts
};

std::unordered_map<std::string, Kind> kinds_of(const ModelContext& context, int chunk,
                                               const torch::nn::Module& model) {
  std::unordered_map<std::string, Kind> kinds;
  const topology::Parallelism& sizes = context.mesh->sizes();
  const std::vector<models::Parameter> parameters = models::megatron_parameters(context.arch);
  for (const bridge::RankParameter& held :
       bridge::rank_parameters(context.arch, sizes, grid_rank(sizes, context.mesh->place()))) {
    if (held.chunk != chunk) continue;
    const models::Parameter& parameter = parameters[static_cast<size_t>(held.parameter)];
    kinds[held.name] = {parameter.split.is_replicated() && parameter.expert < 0, parameter.expert >= 0};
  }
  for (const auto& item : model.named_modules())
    if (const auto* adapter = dynamic_cast<const LinearAdapter*>(item.value().get()))
      for (const AdapterParameter& parameter : adapter->adapter_parameters())
        kinds[fmt::format("{}.{}", item.key(), parameter.name)] = {
            parameter.split.is_replicated() && !parameter.expert, parameter.expert};
  return kinds;
}

// A module from outside knows its own parameters: only those of the model's schema can be cut.
Kind kind_of(const std::unordered_map<std::string, Kind>& kinds, const std::string& name) {
  const auto found = kinds.find(name);
  return found == kinds.end() ? Kind{.whole = true} : found->second;
}

// Parameters that some module of the chunk says each rank has a part of the gradient of.
std::unordered_set<const c10::TensorImpl*> partial_parameters(const torch::nn::Module& chunk) {
  std::unordered_set<const c10::TensorImpl*> result;
  for (const auto& module : chunk.modules())
    if (const auto* partial = dynamic_cast<const HasPartialGradients*>(module.get()))
      for (const at::Tensor& parameter : partial->partial_gradients())
        result.insert(parameter.unsafeGetTensorImpl());
  return result;
}

// Parameters of which every rank of expert parallelism has a copy, used by its own experts.
std::vector<at::Tensor> shared_by_experts(const torch::nn::Module& chunk) {
  std::vector<at::Tensor> result;
  for (const auto& module : chunk.modules())
    if (const auto* adapter = dynamic_cast<const LinearAdapter*>(module.get()))
      for (const AdapterParameter& parameter : adapter->adapter_parameters())
        if (parameter.shared_by_experts && parameter.tensor.requires_grad()) result.push_back(parameter.tensor);
  return result;
}

// A parameter that no token reached on this rank may have been reached on another.
at::Tensor gradient_of(const at::Tensor& parameter) {
  at::Tensor& gradient = parameter.mutable_grad();
  if (!gradient.defined()) gradient = at::zeros_like(parameter);
  return gradient;
}

}  // namespace

void sum_shared_gradients(std::span<const std::shared_ptr<torch::nn::Module>> chunks, const ModelContext& context) {
  const parallel::Mesh& mesh = *context.mesh;
  for (size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    const std::unordered_map<std::string, Kind> kinds = kinds_of(context, static_cast<int>(chunk), *chunks[chunk]);
    const auto partial = partial_parameters(*chunks[chunk]);
    for (const auto& item : chunks[chunk]->named_parameters()) {
      const at::Tensor& parameter = item.value();
      if (!parameter.requires_grad()) continue;
      const bool in_parts = partial.contains(parameter.unsafeGetTensorImpl());
      if (!in_parts && !(kind_of(kinds, item.key()).whole && context.sequence_parallel())) continue;
      at::Tensor gradient = gradient_of(parameter);
      mesh.tp.all_reduce(gradient);
    }
    if (mesh.ep.alone()) continue;
    for (const at::Tensor& parameter : shared_by_experts(*chunks[chunk])) {
      at::Tensor gradient = gradient_of(parameter);
      mesh.ep.all_reduce(gradient);
    }
  }
  if (mesh.embedding.alone()) return;
  for (const auto& chunk : chunks) {
    const auto* model = dynamic_cast<const GptModel*>(chunk.get());
    const at::Tensor shared = model ? model->shared_embedding() : at::Tensor();
    if (!shared.defined() || !shared.requires_grad()) continue;
    at::Tensor gradient = gradient_of(shared);
    mesh.embedding.all_reduce(gradient);
  }
}

void finalize_gradients(std::span<const std::shared_ptr<torch::nn::Module>> chunks, const ModelContext& context) {
  const parallel::Mesh& mesh = *context.mesh;
  for (size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    const std::unordered_map<std::string, Kind> kinds = kinds_of(context, static_cast<int>(chunk), *chunks[chunk]);
    for (const auto& item : chunks[chunk]->named_parameters()) {
      if (!item.value().requires_grad()) continue;
      at::Tensor gradient = gradient_of(item.value());
      if (kind_of(kinds, item.key()).expert) {
        mesh.edp.all_reduce(gradient);
        gradient.div_(mesh.dp_cp.size());
      } else {
        mesh.dp_cp.all_reduce(gradient, parallel::Reduce::kAverage);
      }
    }
  }
  sum_shared_gradients(chunks, context);
}

void update_expert_biases(std::span<const std::shared_ptr<torch::nn::Module>> chunks, const ModelContext& context,
                          double rate) {
  const at::NoGradGuard no_grad;
  std::vector<const Router*> routers;
  std::vector<at::Tensor> counts;
  for (const auto& chunk : chunks)
    for (const auto& module : chunk->modules())
      if (const auto* router = dynamic_cast<const Router*>(module.get());
          router && router->expert_bias().defined()) {
        routers.push_back(router);
        counts.push_back(router->local_tokens_per_expert());
      }
  if (routers.empty()) return;
  at::Tensor total = at::stack(counts);
  context.mesh->tp_dp_cp.all_reduce(total);
  const at::Tensor moves = (total.mean(-1, /*keepdim=*/true) - total).sign() * rate;
  for (size_t i = 0; i < routers.size(); ++i) {
    at::Tensor bias = routers[i]->expert_bias();
    bias.add_(moves[static_cast<int64_t>(i)]);
    counts[i].zero_();
  }
}

void reset_global_losses(std::span<const std::shared_ptr<torch::nn::Module>> chunks) {
  for (const auto& chunk : chunks)
    for (const auto& module : chunk->modules())
      if (const auto* router = dynamic_cast<const Router*>(module.get())) router->losses().reset_global();
}

}  // namespace viaduct::nn
