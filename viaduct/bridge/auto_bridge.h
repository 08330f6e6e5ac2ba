// AutoBridge: the library's front door, with Megatron Bridge's names.
//
//   auto bridge = AutoBridge::from_hf_pretrained("Llama-3.2-1B");
//   bridge.import_ckpt("megatron/llama");                        // Hugging Face -> Megatron
//   AutoBridge::export_ckpt("megatron/llama", "exported");       // Megatron -> Hugging Face
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/verify.h"
#include "viaduct/config/model_config.h"

namespace viaduct::bridge {

/// One row of a conversion: a Megatron parameter and the Hugging Face tensors it is made of.
struct ConversionTask {
  std::string megatron_name;
  std::vector<std::string> hf_names;
  Shape shape;  // of the parameter, global
  DType dtype{};
};

/// An opened checkpoint and what can be made of it.
class AutoBridge {
 public:
  /// Opens a Hugging Face folder, a GGUF file, a Megatron checkpoint, or a model of the hub by its name. UserError
  /// as fetch_checkpoint.
  static AutoBridge from_hf_pretrained(const Path& path_or_name, const OpenOptions& options = {},
                                       Progress* progress = nullptr);
  /// Opens a model of the hub whose weights stay there: they come by ranges when they are converted. UserError as
  /// open_streamed.
  static AutoBridge from_hf_stream(const std::string& name, const OpenOptions& options = {},
                                   Progress* progress = nullptr);
  /// True when from_hf_pretrained would know the architecture of the model's config.json, which alone is fetched of
  /// a model of the hub.
  static bool can_handle(const Path& path_or_name);
  /// Hugging Face architectures, in the registry's order: "LlamaForCausalLM" ...
  static std::vector<std::string> list_supported_models();

  /// The architecture, and the checkpoint that was opened.
  const models::ArchSpec& arch() const { return checkpoint_->arch(); }
  const Checkpoint& checkpoint() const { return *checkpoint_; }

  /// In the order of the Megatron model's state dict.
  std::vector<ConversionTask> get_conversion_tasks() const;
  /// The provider that upstream's import would write, parallel sizes 1.
  config::ModelConfig to_megatron_provider() const;
  /// Calls back with every Hugging Face tensor as row-major bytes, one at a time, in the source's order.
  void export_hf_weights(const std::function<void(const std::string& name, DType dtype, const Shape& shape,
                                                  std::span<const std::byte> bytes)>& receive) const;

  /// Source -> torch_dist below `root`, in one go.
  ConversionReport import_ckpt(const Path& root, const MegatronTarget& target = {},
                               const RunOptions& options = {}) const;
  /// Source -> Hugging Face folder.
  ConversionReport save_hf_pretrained(const Path& folder, const HfTarget& target = {},
                                      const RunOptions& options = {}) const;
  /// Megatron checkpoint -> Hugging Face folder.
  static ConversionReport export_ckpt(const Path& megatron, const Path& folder, const HfTarget& target = {},
                                      const RunOptions& options = {}, const OpenOptions& open = {});

 private:
  explicit AutoBridge(std::unique_ptr<Checkpoint> checkpoint) : checkpoint_(std::move(checkpoint)) {}
  std::unique_ptr<Checkpoint> checkpoint_;
};

}  // namespace viaduct::bridge
