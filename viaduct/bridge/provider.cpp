#include "viaduct/bridge/provider.h"

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/models/parameters.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

using config::ModelConfig;
using models::Parameter;
using topology::Parallelism;

config::ModelConfig provider_in_layout(const Checkpoint& source, const MegatronTarget& target) {
  models::ArchSpec arch = source.arch();
  if (target.dtype) arch.dtype = *target.dtype;
  config::ModelConfig provider =
      target.provider ? *target.provider : models::provider_for(arch, source.record().config);
  if (target.provider && target.dtype) provider.set_params_dtype(*target.dtype);
  const topology::Parallelism& parallel = target.parallel;
  provider.tensor_model_parallel_size = parallel.tp;
  provider.pipeline_model_parallel_size = parallel.pp;
  if (parallel.vpp > 1) provider.virtual_pipeline_model_parallel_size = parallel.vpp;
  provider.context_parallel_size = parallel.cp;
  provider.expert_model_parallel_size = parallel.ep;
  provider.expert_tensor_parallel_size = parallel.etp;
  if (parallel.pp > 1) provider.pipeline_dtype = provider.params_dtype;
  const topology::PipelineOptions pipeline = pipeline_options(arch, parallel);
  if (const auto& layout = pipeline.pipeline_model_parallel_layout)
    provider.pipeline_model_parallel_layout = config::Yaml(topology::to_string(*layout));
  if (pipeline.num_layers_in_first_pipeline_stage)
    provider.num_layers_in_first_pipeline_stage = *pipeline.num_layers_in_first_pipeline_stage;
  if (pipeline.num_layers_in_last_pipeline_stage)
    provider.num_layers_in_last_pipeline_stage = *pipeline.num_layers_in_last_pipeline_stage;
  provider.account_for_embedding_in_pipeline_split |= pipeline.account_for_embedding_in_pipeline_split;
  provider.account_for_loss_in_pipeline_split |= pipeline.account_for_loss_in_pipeline_split;
  const int64_t vocab = arch.embedding.vocab_size;
  provider.should_pad_vocab = padded_vocab_size(vocab, config::vocab_divisor(vocab), parallel.tp) != vocab;
  // Megatron pads by this number too: it must come to the rows that are stored here.
  if (provider.should_pad_vocab) provider.make_vocab_size_divisible_by = config::vocab_divisor(vocab);
  provider.hf_model_id = source.record().origin;
  provider.finalize();
  return provider;
}

Parallelism parallelism_of(const ModelConfig& provider) {
  const auto size = [](int64_t value, const char* field) {
    VIADUCT_USER_CHECK(value >= 1 && value <= 1 << 20, "{} is {}; it must be 1 or more", field, value);
    return static_cast<int>(value);
  };
  Parallelism parallel;
  parallel.tp = size(provider.tensor_model_parallel_size, "tensor_model_parallel_size");
  parallel.pp = size(provider.pipeline_model_parallel_size, "pipeline_model_parallel_size");
  parallel.vpp =
      size(provider.virtual_pipeline_model_parallel_size.value_or(1), "virtual_pipeline_model_parallel_size");
  parallel.cp = size(provider.context_parallel_size, "context_parallel_size");
  parallel.ep = size(provider.expert_model_parallel_size, "expert_model_parallel_size");
  parallel.etp = size(provider.expert_tensor_parallel_size.value_or(parallel.tp), "expert_tensor_parallel_size");
  parallel.validate();
  return parallel;
}

void check_provider(const Checkpoint& source, const ModelConfig& provider) {
  const auto parameters = [](const ModelConfig& config) {
    return models::megatron_parameters(models::read_arch(config));
  };
  // Against the provider that the checkpoint has by itself, since a provider does not tell all: one of Nemotron
  // Nano's vision model does not give its tower.
  const std::vector<Parameter> ours = parameters(models::provider_for(source.arch(), source.record().config));
  const std::vector<Parameter> theirs = parameters(provider);
  constexpr std::string_view kChanged = "a field was changed that the weights depend on";
  for (size_t i = 0; i < std::max(ours.size(), theirs.size()); ++i) {
    const auto name = [i](const std::vector<Parameter>& list) {
      return i < list.size() ? list[i].name : "nothing";
    };
    VIADUCT_USER_CHECK(name(ours) == name(theirs), "{} has {}, and the provider's model has {} in its place: {}",
                       source.path().string(), name(ours), name(theirs), kChanged);
    VIADUCT_USER_CHECK(ours[i].shape == theirs[i].shape,
                       "{} has the shape {} in {} and {} in the provider's model: {}", ours[i].name, ours[i].shape,
                       source.path().string(), theirs[i].shape, kChanged);
  }
  const Parallelism parallel = parallelism_of(provider);
  const topology::PipelineOptions spread = pipeline_options(source.arch(), parallel);
  const std::optional<int64_t> last = spread.num_layers_in_last_pipeline_stage;
  const auto layout = spread.pipeline_model_parallel_layout;
  const config::Yaml& wanted = provider.pipeline_model_parallel_layout;
  const bool same =
      !provider.num_layers_in_first_pipeline_stage &&
      (!provider.num_layers_in_last_pipeline_stage || provider.num_layers_in_last_pipeline_stage == last) &&
      !provider.account_for_embedding_in_pipeline_split && !provider.account_for_loss_in_pipeline_split &&
      (wanted.is_null() || (layout && wanted == config::Yaml(topology::to_string(*layout))));
  VIADUCT_USER_CHECK(
      parallel.pp == 1 || same,
      "the provider gives the pipeline a layout of its own (pipeline_model_parallel_layout, "
      "num_layers_in_*_pipeline_stage, account_for_*_in_pipeline_split), and layers are spread evenly "
      "here: leave these fields as they were");
}

}  // namespace viaduct::bridge
