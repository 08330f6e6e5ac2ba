// A run's configuration under another layout.
#pragma once

#include "viaduct/config/config_container.h"
#include "viaduct/topology/parallelism.h"

namespace viaduct::test {

/// The configuration loads `iteration` in this layout, and saves nothing.
inline void set_layout(config::ConfigContainer& config, const Path& iteration, const topology::Parallelism& sizes,
                       bool distributed_optimizer) {
  config::ModelConfig& model = config.model;
  model.tensor_model_parallel_size = sizes.tp;
  model.pipeline_model_parallel_size = sizes.pp;
  model.expert_model_parallel_size = sizes.ep;
  model.expert_tensor_parallel_size = sizes.etp;
  model.sequence_parallel = sizes.tp > 1;
  config.optimizer.use_distributed_optimizer = config.ddp.use_distributed_optimizer = distributed_optimizer;
  config.checkpoint.load = iteration.string();
  config.checkpoint.save = std::nullopt;
  config.tokenizer = {};
}

}  // namespace viaduct::test
