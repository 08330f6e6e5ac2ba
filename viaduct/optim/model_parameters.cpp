#include "viaduct/optim/model_parameters.h"

#include <fmt/format.h>

#include <unordered_map>

#include "viaduct/bridge/rank_layout.h"
#include "viaduct/models/parameters.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/linear_adapter.h"

namespace viaduct::optim {

namespace {

// By chunk and name, what the model's description says of this rank's parameters.
std::unordered_map<std::string, models::Parameter> described(const nn::ModelContext& context, int chunk) {
  std::unordered_map<std::string, models::Parameter> result;
  const topology::Parallelism& sizes = context.mesh->sizes();
  const std::vector<models::Parameter> parameters = models::megatron_parameters(context.arch);
  for (const bridge::RankParameter& held :
       bridge::rank_parameters(context.arch, sizes, nn::grid_rank(sizes, context.mesh->place())))
    if (held.chunk == chunk) result.emplace(held.name, parameters[static_cast<size_t>(held.parameter)]);
  return result;
}

// What adapters say of their own.
std::unordered_map<std::string, nn::AdapterParameter> of_adapters(const torch::nn::Module& chunk) {
  std::unordered_map<std::string, nn::AdapterParameter> result;
  for (const auto& item : chunk.named_modules())
    if (const auto* adapter = dynamic_cast<const nn::LinearAdapter*>(item.value().get()))
      for (nn::AdapterParameter& parameter : adapter->adapter_parameters())
        result.emplace(fmt::format("{}.{}", item.key(), parameter.name), std::move(parameter));
  return result;
}

bool is_embedding_or_output(std::string_view name) {
  return name.ends_with("embedding.word_embeddings.weight") || name.ends_with("output_layer.weight");
}

}  // namespace

std::vector<ModelParameter> model_parameters(const nn::ModelChunks& chunks, const nn::ModelContext& context) {
  const parallel::Mesh& mesh = *context.mesh;
  std::vector<ModelParameter> result;
  for (size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    const auto model = described(context, static_cast<int>(chunk));
    const auto adapters = of_adapters(*chunks[chunk]);
    const auto* gpt = dynamic_cast<const nn::GptModel*>(chunks[chunk].get());
    const at::Tensor shared = gpt ? gpt->shared_embedding() : at::Tensor();
    for (const auto& item : chunks[chunk]->named_parameters()) {
      const at::Tensor& tensor = item.value();
      if (!tensor.requires_grad()) continue;
      ModelParameter parameter{static_cast<int>(chunk), item.key(), tensor};
      const auto found = model.find(item.key());
      const auto own = adapters.find(item.key());
      // What neither knows (a module from outside) every tensor-parallel rank holds whole.
      bool whole = true;
      if (found != model.end()) {
        whole = found->second.split.is_replicated();
        parameter.expert = found->second.expert >= 0;
      } else if (own != adapters.end()) {
        whole = own->second.split.is_replicated();
        parameter.expert = own->second.expert;
        if (own->second.shared_by_experts && mesh.ep.rank() != 0) parameter.counted = false;
      }
      if (whole && parameter.counted) parameter.counted = (parameter.expert ? mesh.etp : mesh.tp).rank() == 0;
      parameter.shared_among_stages = !mesh.embedding.alone() && shared.is_same(tensor);
      if (parameter.shared_among_stages && mesh.embedding.rank() != 0) parameter.counted = false;
      if (tensor.dim() == 1 || item.key().ends_with(".bias")) parameter.weight_decay_multiplier = 0;
      parameter.embedding_or_output = is_embedding_or_output(item.key());
      result.push_back(std::move(parameter));
    }
  }
  return result;
}

}  // namespace viaduct::optim
