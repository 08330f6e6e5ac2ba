// A whole model of a folder in this process, loaded.
#pragma once

#include <functional>
#include <memory>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/live.h"

namespace viaduct::test {

struct LoadedModel {
  std::unique_ptr<bridge::Checkpoint> checkpoint;
  nn::ContextPtr context;
  std::shared_ptr<nn::GptModel> model;

  LoadedModel(const Path& folder, c10::ScalarType type, c10::Device device,
              const std::function<void(models::ArchSpec&)>& change = {}) {
    checkpoint = bridge::open_checkpoint(folder);
    models::ArchSpec arch = checkpoint->arch();
    if (change) change(arch);
    context = nn::make_context(std::move(arch), bridge::provider_in_layout(*checkpoint, {}),
                               std::make_shared<parallel::Mesh>(), type, device);
    model = std::make_shared<nn::GptModel>(context);
    nn::load_weights(*checkpoint, {model}, *context->mesh);
  }
};

}  // namespace viaduct::test
