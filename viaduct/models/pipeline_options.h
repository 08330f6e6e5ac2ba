// How a provider's fields spread a model's layers over pipeline stages.
#pragma once

#include "viaduct/config/model_config.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/topology/parallelism.h"
#include "viaduct/topology/pipeline.h"

namespace viaduct::models {

/// What a provider says about uneven pipeline stages. UserError for a pipeline_model_parallel_layout that cannot be
/// read.
topology::PipelineSplit pipeline_split(const config::ModelConfig& provider);

/// The pipeline fields of a provider, for topology::Pipeline. UserError for a pipeline_model_parallel_layout that
/// cannot be read.
topology::PipelineOptions pipeline_options(const config::ModelConfig& provider, const ArchSpec& arch);

/// The provider's parallel sizes on `world_size` ranks. UserError when they do not fit.
topology::Parallelism parallelism_of(const config::ModelConfig& provider, int world_size);

}  // namespace viaduct::models
