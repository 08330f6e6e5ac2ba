// Family: everything the program knows about one line of models, in one declarative file each (llama.cpp, qwen3.cpp
// ...).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/config/model_config.h"
#include "viaduct/core/json.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// A published size: members of config.json that differ from the family's toy (`Family::toy_config`).
struct KnownSize {
  std::string_view name;    // "llama-3.2-1b"
  std::string_view hf_id;   // "meta-llama/Llama-3.2-1B"
  std::string_view config;  // a JSON object
};

/// The shape of a checkpoint's tensor by its name as it is stored; nullopt when the checkpoint has none of that
/// name.
using TensorShapes = std::function<std::optional<Shape>(std::string_view name)>;

/// Another form in which the same model's tensors are found: other names, or experts together in one tensor.
struct WeightForm {
  std::string_view name;  // "transformers 4", "fused experts"
  WeightTable weights;
  /// Does the checkpoint with these tensors have this form? Asked in order; the usual form is taken when no other
  /// says yes.
  bool (*matches)(const HfConfig& config, const ArchSpec& arch, const TensorShapes& shapes);
};

/// One line of models. The functions that have no default here are always set.
struct Family {
  std::string_view name;          // "llama"
  std::string_view title;         // "Llama 2, 3, 3.1, 3.2, 3.3"
  std::string_view architecture;  // the class in config.json's "architectures"
  std::string_view model_type;    // config.json's "model_type"
  std::string_view toy_config;    // a config.json with tiny sizes, in transformers' own form

  /// config.json -> ArchSpec.
  ArchSpec (*read_config)(const HfConfig& config);
  /// ArchSpec -> the members of config.json that write_decoder_config does not write or writes otherwise.
  void (*write_config)(const ArchSpec& arch, Json& config);
  /// ArchSpec -> the provider's fields that differ from those of set_decoder_provider.
  void (*set_provider)(const ArchSpec& arch, config::ModelConfig& provider);
  /// Is this provider one of this family's? Asked in registry order, for checkpoints that come without config.json.
  bool (*recognises)(const config::ModelConfig& provider);
  /// Provider -> what read_decoder_provider cannot know.
  void (*read_provider)(const config::ModelConfig& provider, ArchSpec& arch);

  WeightTable weights;  // of the usual form, 0
  std::vector<KnownSize> sizes;
  std::vector<WeightForm> other_forms;  // form i + 1
  /// For list-models and the documentation: the forms in which the weights may come beyond bf16, fp16 and fp32
  /// tensors, and what the tests hold the family against.
  std::string_view sources = "safetensors, pytorch_model*.bin, torch_dist";
  std::string_view proven =
      "import, export and configuration against Megatron Bridge 0.6.2, loading in transformers";
  /// Is this config.json the family's although another family has its architecture? Asked before the architecture's
  /// own family.
  bool (*claims)(const HfConfig& config) = nullptr;
  /// What only the checkpoint's tensors say: a part of the model that config.json does not mention. Called before
  /// the form is chosen.
  void (*read_tensors)(const HfConfig& config, const TensorShapes& shapes, ArchSpec& arch) = nullptr;
  /// Fields of the provider that config.json knows and ArchSpec does not: token ids, configuration objects of
  /// transformers. Called behind set_provider.
  void (*complete_provider)(const HfConfig& config, const ArchSpec& arch, config::ModelConfig& provider) = nullptr;
  /// The other way, behind write_config, for checkpoints that come without config.json.
  void (*complete_config)(const config::ModelConfig& provider, Json& config) = nullptr;

  /// The table of ArchSpec::form.
  const WeightTable& table(int form) const {
    return form == 0 ? weights : other_forms.at(static_cast<size_t>(form - 1)).weights;
  }
  /// Completes `arch` with what a checkpoint of these tensors says, its form among it.
  void complete(const HfConfig& config, const TensorShapes& shapes, ArchSpec& arch) const {
    if (read_tensors) read_tensors(config, shapes, arch);
    arch.form = 0;
    for (size_t i = 0; i < other_forms.size() && arch.form == 0; ++i)
      if (other_forms[i].matches(config, arch, shapes)) arch.form = static_cast<int>(i + 1);
  }
};

}  // namespace viaduct::models
