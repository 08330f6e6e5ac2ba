#include "viaduct/bridge/auto_bridge.h"

#include "viaduct/bridge/hub_source.h"
#include "viaduct/bridge/weight_stream.h"
#include "viaduct/core/error.h"
#include "viaduct/hub/download.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

AutoBridge AutoBridge::from_hf_pretrained(const Path& path_or_name, const OpenOptions& options,
                                          Progress* progress) {
  return AutoBridge(fetch_checkpoint(path_or_name.string(), options, progress));
}

AutoBridge AutoBridge::from_hf_stream(const std::string& name, const OpenOptions& options, Progress* progress) {
  return AutoBridge(open_streamed(name, options, progress, nullptr));
}

bool AutoBridge::can_handle(const Path& path_or_name) {
  const Path config = hub::resolve_model(path_or_name.string(), nullptr, {"config.json"}).path / "config.json";
  if (!std::filesystem::exists(config)) return false;
  return models::find_family(models::HfConfig::read(config.string())) != nullptr;
}

std::vector<std::string> AutoBridge::list_supported_models() {
  std::vector<std::string> names;
  for (const models::Family& family : models::families()) names.emplace_back(family.architecture);
  return names;
}

std::vector<ConversionTask> AutoBridge::get_conversion_tasks() const {
  const WeightGraph& graph = checkpoint_->graph();
  std::vector<ConversionTask> tasks;
  for (size_t i = 0; i < graph.parameters.size(); ++i) {
    ConversionTask task{graph.parameters[i].name,
                        {},
                        graph.parameters[i].shape,
                        checkpoint_->dtype_of(checkpoint_->parameter_pieces(i))};
    for (const int32_t tensor : graph.tensors_of(i))
      task.hf_names.push_back(graph.hf_tensors[static_cast<size_t>(tensor)].name);
    tasks.push_back(std::move(task));
  }
  return tasks;
}

config::ModelConfig AutoBridge::to_megatron_provider() const {
  config::ModelConfig provider = models::provider_for(arch(), checkpoint_->record().config);
  provider.hf_model_id = checkpoint_->record().origin;
  provider.finalize();
  return provider;
}

void AutoBridge::export_hf_weights(
    const std::function<void(const std::string&, DType, const Shape&, std::span<const std::byte>)>& receive) const {
  WeightStream stream(hf_view(*checkpoint_));
  while (const std::optional<LoadedTensor> tensor = stream.next())
    receive(tensor->name, tensor->dtype, tensor->shape, tensor->bytes.bytes());
}

ConversionReport AutoBridge::import_ckpt(const Path& root, const MegatronTarget& target,
                                         const RunOptions& options) const {
  return run(plan_import(*checkpoint_, root, target), options);
}

ConversionReport AutoBridge::save_hf_pretrained(const Path& folder, const HfTarget& target,
                                                const RunOptions& options) const {
  return run(plan_export(*checkpoint_, folder, target), options);
}

ConversionReport AutoBridge::export_ckpt(const Path& megatron, const Path& folder, const HfTarget& target,
                                         const RunOptions& options, const OpenOptions& open) {
  VIADUCT_USER_CHECK(is_megatron_checkpoint(megatron), "{} is not a Megatron checkpoint (no iter_*, no .metadata)",
                     megatron.string());
  return from_hf_pretrained(megatron, open).save_hf_pretrained(folder, target, options);
}

}  // namespace viaduct::bridge
