// NeMo 2's context/model.yaml: the configuration of its GPTConfig classes, as a provider.
#pragma once

#include "viaduct/config/model_config.h"
#include "viaduct/core/file.h"

namespace viaduct::models {

/// The `config` section of context/model.yaml as Megatron Bridge's provider of the same model. vocab_size is none
/// where NeMo takes the tokenizer's. UserError naming file and key when it has no such section or a field of a
/// wrong type.
config::ModelConfig read_nemo_config(const Path& model_yaml);

}  // namespace viaduct::models
