#include "viaduct/models/nemo_config.h"

#include <array>

#include "viaduct/config/yaml.h"

namespace viaduct::models {

namespace {

// A word in the name of a NeMo class, and the provider that has its fields. The first that fits counts.
struct NemoClass {
  std::string_view word;
  std::string_view provider;
};
constexpr std::array<NemoClass, 8> kClasses = {{
    {"Gemma3", "megatron.bridge.models.gemma.gemma3_provider.Gemma3ModelProvider"},
    {"Gemma2", "megatron.bridge.models.gemma.gemma2_provider.Gemma2ModelProvider"},
    {"Gemma", "megatron.bridge.models.gemma.gemma_provider.GemmaModelProvider"},
    {"Mistral", "megatron.bridge.models.mistral.mistral_provider.MistralModelProvider"},
    {"DeepSeek", "megatron.bridge.models.mla_provider.MLAModelProvider"},
    {"SSM", "megatron.bridge.models.hybrid.hybrid_provider.HybridModelProvider"},
    {"NemotronH", "megatron.bridge.models.hybrid.hybrid_provider.HybridModelProvider"},
    {"Heterogeneous",
     "megatron.bridge.models.llama_nemotron.llama_nemotron_provider.LlamaNemotronHeterogeneousProvider"},
}};

std::string_view provider_of(std::string_view target) {
  const std::string_view name = config::last_word(target);
  for (const NemoClass& known : kClasses)
    if (name.find(known.word) != std::string_view::npos) return known.provider;
  return config::kGptProvider;
}

}  // namespace

config::ModelConfig read_nemo_config(const Path& model_yaml) {
  const std::string origin = model_yaml.string();
  const config::Yaml document = config::read_yaml_file(model_yaml);
  const config::Yaml* section = document.find("config");
  VIADUCT_USER_CHECK(section && section->is_mapping(), "{}: no section 'config'", origin);
  config::ModelConfig model = config::model_config_from_yaml(*section, origin);
  model.target = provider_of(model.target);
  // NeMo's own layer specifications are the default ones.
  if (model.layer_spec_name() != "default_layer_spec") model.transformer_layer_spec = config::default_layer_spec();
  return model;
}

}  // namespace viaduct::models
