// A model of a checkpoint in this process, loaded.
#pragma once

#include <torch/nn/module.h>

#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/bridge/rank_view.h"
#include "viaduct/bridge/weight_stream.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::test {

inline void fill(torch::nn::Module& module, const bridge::View& view) {
  at::NoGradGuard no_grad;
  std::unordered_map<std::string, at::Tensor> targets;
  for (const auto& item : module.named_parameters()) targets[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) targets[item.key()] = item.value();
  for (const bridge::ViewTensor& tensor : view.tensors) {
    const auto found = targets.find(tensor.name);
    if (found == targets.end()) {
      if (tensor.name.find("mtp.") != std::string::npos) continue;
      throw std::runtime_error("the model has no " + tensor.name);
    }
    const bridge::LoadedTensor loaded = bridge::load_tensor(view, tensor, tensor.dtype);
    at::Tensor host = at::empty(torchx::sizes_of(loaded.shape), torchx::scalar_type(loaded.dtype));
    std::memcpy(host.data_ptr(), loaded.bytes.data(), host.nbytes());
    if (found->second.sizes() != host.sizes()) throw std::runtime_error("another shape: " + tensor.name);
    found->second.copy_(host);
    targets.erase(found);
  }
  for (const auto& [name, tensor] : targets) throw std::runtime_error("nothing fills " + name);
}

/// The whole model of a folder, in one process.
struct LoadedModel {
  std::unique_ptr<bridge::Checkpoint> checkpoint;
  nn::ContextPtr context;
  std::shared_ptr<nn::GptModel> model;

  LoadedModel(const Path& folder, c10::ScalarType type, c10::Device device,
              const std::function<void(models::ArchSpec&)>& change = {}) {
    checkpoint = bridge::open_checkpoint(folder);
    models::ArchSpec arch = checkpoint->arch();
    if (change) change(arch);
    const bridge::MegatronTarget target;
    context = nn::make_context(std::move(arch), bridge::provider_in_layout(*checkpoint, target),
                               std::make_shared<parallel::Mesh>(), type, device);
    model = std::make_shared<nn::GptModel>(context);
    fill(*model, bridge::rank_view(*checkpoint, target, 0)[0].view);
  }
};

}  // namespace viaduct::test
