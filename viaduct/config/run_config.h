// run_config.yaml: the configuration that a Megatron Bridge checkpoint carries beside its weights.
#pragma once

#include <optional>
#include <string>

#include "viaduct/config/model_config.h"
#include "viaduct/config/yaml.h"
#include "viaduct/core/file.h"

namespace viaduct::config {

/// What of a run_config.yaml depends on where the checkpoint is written and what it came from.
struct RunConfigContext {
  std::string save_path;                       // checkpoint.save: the checkpoint's folder (not its iter_*)
  std::optional<std::string> tokenizer_model;  // the Hugging Face folder or name; none: `tokenizer: null`
  Yaml hf_tokenizer_kwargs = Yaml::mapping();  // arguments for AutoTokenizer.from_pretrained, e.g. use_fast: true
  bool trust_remote_code = false;              // also sets hf_tokenizer_kwargs' entry, as upstream's import does
};

/// The whole file as AutoBridge.import_ckpt of release 0.6.2 writes it: weights only, no optimizer, no rng.
/// `model` must be finalized and have its hf_model_id.
std::string run_config_yaml(const ModelConfig& model, const RunConfigContext& context);
/// The same as a document.
Yaml run_config_document(const ModelConfig& model, const RunConfigContext& context);

/// What a run_config.yaml says.
struct RunConfig {
  ModelConfig model;
  Yaml document = Yaml::mapping();  // everything, as it stands in the file

  std::optional<std::string> tokenizer_type;   // "HuggingFaceTokenizer"
  std::optional<std::string> tokenizer_model;  // folder or name of the tokenizer
  bool trust_remote_code = false;              // the tokenizer (or model) was loaded with remote code
  std::optional<std::string> hf_model_id;      // the Hugging Face model that the weights came from
  bool has_peft = false;                       // the checkpoint holds adapters, not a whole model

  std::optional<bool> fully_parallel_save;  // checkpoint.*; absent in files that do not say
  std::optional<bool> save_optim;
  std::optional<bool> save_rng;

  /// A section by its name, or nullptr when it is absent or null.
  const Yaml* section(std::string_view name) const;
};

/// Reads a run_config.yaml of any release. UserError naming file, section and key.
RunConfig read_run_config(const Path& path);
/// The same of a document in memory; `origin` names it in messages.
RunConfig run_config_from_yaml(Yaml document, std::string_view origin);

}  // namespace viaduct::config
