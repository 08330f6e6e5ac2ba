// Megatron-LM's `args`: the argparse.Namespace that its checkpoints carry instead of a run_config.yaml.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "viaduct/config/model_config.h"
#include "viaduct/formats/pickle_value.h"

namespace viaduct::config {

/// True for an argparse.Namespace (or a SimpleNamespace, as tools make it).
bool is_namespace(const formats::PickleValue& value);

/// The provider that Megatron Bridge makes of the args of a Megatron-LM model: fields of the same name, and those
/// that Megatron-LM calls otherwise (num_experts, swiglu, untie_embeddings_and_output_weights ...). Attributes of
/// other kinds than plain data (enums, classes) are passed over, save attention_backend and the types. vocab_size
/// is padded_vocab_size: the args do not say how many of the rows are padding, save for a NullTokenizer. UserError
/// that starts with `origin` and names the argument when one is missing or of a wrong type, and for models that are
/// no Megatron Core models.
ModelConfig model_config_from_args(const formats::PickleValue& args, std::string_view origin);

/// What of the args depends on where and when the checkpoint is written.
struct ArgsContext {
  std::string save_path;  // the checkpoint's root
  int64_t iteration = 0;
  int64_t padded_vocab_size = 0;  // rows as stored
};

/// The other way: an argparse.Namespace from which Megatron-LM (--use-checkpoint-args) and Megatron Bridge's reader
/// of Megatron-LM checkpoints build the model. It says that no optimizer and rng state was saved. `base`, when it
/// is a namespace, gives the attributes that the provider does not (a run's own args are kept), else Megatron-LM's
/// defaults do.
formats::PickleValue megatron_args(const ModelConfig& model, const ArgsContext& context,
                                   const formats::PickleValue* base = nullptr);

}  // namespace viaduct::config
