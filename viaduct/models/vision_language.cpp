#include "viaduct/models/vision_language.h"

namespace viaduct::models {

using config::OptInt;

void nest_text_config(Json& config, std::string_view text_type) {
  Json text = Json::object(), whole = Json::object();
  for (const auto& [key, value] : config.members()) {
    const bool outside = key == "architectures" || key == "model_type";
    (outside ? whole : text).set(key, value);
  }
  text.set("model_type", text_type);
  for (const char* key : {"dtype", "tie_word_embeddings", "torch_dtype"}) whole.set(key, config.at(key));
  whole.set("text_config", std::move(text));
  config = std::move(whole);
}

OptInt token_id(const HfConfig& config, std::string_view key, OptInt fallback) {
  return config.document().contains(key) ? config.optional_integer(key) : fallback;
}

config::OptIntOrInts token_ids(const HfConfig& config, std::string_view key, OptInt fallback) {
  if (config.has(key) && config.document().at(key).is_array()) return config::IntOrInts(config.integers(key));
  const OptInt one = token_id(config, key, fallback);
  return one ? config::OptIntOrInts(*one) : std::nullopt;
}

void add_missing(const Json& object, Json& into) {
  for (const auto& [key, value] : object.members())
    if (!into.contains(key)) into.set(key, value);
}

void set_heads(const HfConfig& config, std::string_view key, int64_t usual, VisionSpec& vision) {
  vision.num_heads = config.integer_or(key, usual);
  if (vision.num_heads < 1 || vision.hidden_size % vision.num_heads != 0)
    config.fail(fmt::format("the vision tower's \"hidden_size\" {} is no multiple of \"{}\" {}", vision.hidden_size,
                            key, vision.num_heads));
  vision.head_dim = vision.hidden_size / vision.num_heads;
}

HfConfig vision_config_of(const config::ModelConfig& provider) {
  return {transformers_values(provider.vision_config), "run_config.yaml: model.vision_config"};
}

bool has_module_names(const HfConfig&, const ArchSpec&, const TensorShapes& shapes) {
  return shapes("model.language_model.embed_tokens.weight").has_value();
}

WeightTable with_module_names(const WeightTable& weights) {
  return weights.renamed({{"language_model.model.", "model.language_model."},
                          {"language_model.lm_head.", "lm_head."},
                          {"vision_tower.", "model.vision_tower."},
                          {"multi_modal_projector.", "model.multi_modal_projector."}});
}

}  // namespace viaduct::models
