// The provider (the model section of run_config.yaml) of a checkpoint in a parallel layout.
#pragma once

#include "viaduct/bridge/conversion.h"
#include "viaduct/config/model_config.h"
#include "viaduct/topology/parallelism.h"

namespace viaduct::bridge {

/// The provider that a checkpoint of this layout has in its run_config.yaml.
config::ModelConfig provider_in_layout(const Checkpoint& source, const MegatronTarget& target);

/// The sizes in a provider's fields, expert_tensor_parallel_size being tensor_model_parallel_size where it is
/// unset. UserError that names the field which is not 1 or more.
topology::Parallelism parallelism_of(const config::ModelConfig& provider);

/// UserError when the provider describes other weights than the checkpoint has, naming the first parameter that
/// differs, or when it cuts the pipeline in another way than pipeline_options.
void check_provider(const Checkpoint& source, const config::ModelConfig& provider);

}  // namespace viaduct::bridge
