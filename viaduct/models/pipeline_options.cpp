#include "viaduct/models/pipeline_options.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::models {
namespace {

int small(int64_t value) { return static_cast<int>(std::clamp<int64_t>(value, 0, 1 << 20)); }

topology::StageList layout_in(const config::Yaml& layout) {
  if (layout.is_string()) return topology::parse_layout(layout.as_string());
  return topology::layout_from_names(
      config::decode<std::vector<config::Strings>>(layout, "model.pipeline_model_parallel_layout"));
}

}  // namespace

topology::PipelineSplit pipeline_split(const config::ModelConfig& provider) {
  topology::PipelineSplit split;
  if (provider.num_layers_in_first_pipeline_stage)
    split.num_layers_in_first_pipeline_stage = small(*provider.num_layers_in_first_pipeline_stage);
  if (provider.num_layers_in_last_pipeline_stage)
    split.num_layers_in_last_pipeline_stage = small(*provider.num_layers_in_last_pipeline_stage);
  split.account_for_embedding_in_pipeline_split = provider.account_for_embedding_in_pipeline_split;
  split.account_for_loss_in_pipeline_split = provider.account_for_loss_in_pipeline_split;
  if (!provider.pipeline_model_parallel_layout.is_null())
    split.pipeline_model_parallel_layout = layout_in(provider.pipeline_model_parallel_layout);
  return split;
}

topology::PipelineOptions pipeline_options(const config::ModelConfig& provider, const ArchSpec& arch) {
  topology::PipelineOptions options;
  options.num_layers = small(arch.num_layers());
  options.mtp_num_layers = small(provider.mtp_num_layers.value_or(0));
  options.pipeline_model_parallel_size = small(provider.pipeline_model_parallel_size);
  options.virtual_pipeline_model_parallel_size = small(provider.virtual_pipeline_model_parallel_size.value_or(1));
  options.set_split(pipeline_split(provider));
  return options;
}

topology::Parallelism parallelism_of(const config::ModelConfig& provider, int world_size) {
  topology::Parallelism sizes;
  sizes.tp = small(provider.tensor_model_parallel_size);
  sizes.pp = small(provider.pipeline_model_parallel_size);
  sizes.vpp = small(provider.virtual_pipeline_model_parallel_size.value_or(1));
  sizes.cp = small(provider.context_parallel_size);
  sizes.ep = small(provider.expert_model_parallel_size);
  sizes.etp = small(provider.expert_tensor_parallel_size.value_or(sizes.ep > 1 ? 1 : sizes.tp));
  return sizes.with_world_size(world_size);
}

}  // namespace viaduct::models
