// Family: everything the program knows about one line of models, in one declarative file each (llama.cpp, qwen3.cpp
// ...).
#pragma once

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

  WeightTable weights;
  std::vector<KnownSize> sizes;
};

}  // namespace viaduct::models
