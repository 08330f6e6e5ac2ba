// Ministral 3 (and Mistral Small 3.1, 3.2): Mistral behind transformers' Pixtral tower, which Megatron holds as it
// is, and a projector that merges squares of patches; yarn, and queries that grow with the position.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"
#include "viaduct/models/hf_defaults.h"
#include "viaduct/models/vision_language.h"

namespace viaduct::models {
namespace {

using config::Yaml;

constexpr std::string_view kTransformersVersion = "5.12.1";  // of the release whose objects these are

constexpr TransformersClass kWhole = {
    "transformers.models.mistral3.configuration_mistral3.Mistral3Config",
    R"({"image_token_index": 10, "model_type": "mistral3", "multimodal_projector_bias": false,
        "projector_hidden_act": "gelu", "spatial_merge_size": 2, "vision_feature_layer": -1})"};
constexpr TransformersClass kText = {
    "", R"({"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 262144,
        "model_type": "ministral3", "num_attention_heads": 32, "num_hidden_layers": 34, "num_key_value_heads": 8,
        "pad_token_id": 11, "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "sliding_window": null, "tie_word_embeddings": false, "use_cache": true, "vocab_size": 131072})"};
constexpr TransformersClass kVision = {
    "", R"({"attention_dropout": 0.0, "head_dim": 64, "hidden_act": "gelu", "hidden_size": 1024, "image_size": 1024,
        "initializer_range": 0.02, "intermediate_size": 4096, "model_type": "pixtral", "num_attention_heads": 16,
        "num_channels": 3, "num_hidden_layers": 24, "patch_size": 16,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}})"};
// What Ministral3Config assumes where there is no rope at all.
constexpr std::string_view kUsualRope = R"({"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
  "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0,
  "mscale": 1.0, "llama_4_scaling_beta": 0.1})";

HfConfig text_of(const HfConfig& config) {
  const HfConfig text = with_defaults(config.child("text_config"), kText.defaults);
  const HfConfig given = config.child("text_config");
  if (given.has("rope_parameters")) return text;
  const bool older = given.has("rope_scaling") || given.has("rope_theta") || text.model_type() != "ministral3";
  Json document = text.document();
  document.erase("rope_parameters");
  if (!older) document.set("rope_parameters", Json::parse(kUsualRope, "rope"));
  return {std::move(document), text.origin()};
}

HfConfig vision_of(const HfConfig& config) {
  const HfConfig given =
      config.has("vision_config") ? config.child("vision_config") : HfConfig(Json::object(), config.origin());
  const HfConfig vision = with_defaults(given, kVision.defaults);
  const int64_t heads = vision.integer("num_attention_heads"), hidden = vision.integer("hidden_size");
  if (heads < 1 || hidden % heads != 0)
    vision.fail(fmt::format("\"hidden_size\" {} is no multiple of \"num_attention_heads\" {}", hidden, heads));
  return given.has("head_dim") ? vision : with(vision, "head_dim", hidden / heads);
}

VisionSpec read_vision(const HfConfig& config, int64_t text_hidden_size) {
  const HfConfig tower = vision_of(config);
  VisionSpec vision;
  vision.tower = VisionTower::kPixtral;
  vision.num_layers = tower.integer("num_hidden_layers");
  vision.hidden_size = tower.integer("hidden_size");
  vision.ffn_hidden_size = tower.integer("intermediate_size");
  vision.num_heads = tower.integer("num_attention_heads");
  vision.head_dim = vision.hidden_size / vision.num_heads;  // transformers projects to the width itself
  vision.image_size = tower.integer("image_size");
  vision.patch_size = tower.integer("patch_size");
  vision.num_channels = tower.integer("num_channels");
  vision.merge_size = config.integer_or("spatial_merge_size", 2);
  if (vision.merge_size < 1 || vision.merge_size > 1024)
    config.fail(fmt::format("\"spatial_merge_size\" is {}", vision.merge_size));
  vision.output_size = text_hidden_size;
  vision.projector_bias = config.boolean_or("multimodal_projector_bias", false);
  vision.feature_layers = {-1};
  if (config.has("vision_feature_layer")) vision.feature_layers = config.integers("vision_feature_layer");
  if (vision.feature_layers.empty()) config.fail("\"vision_feature_layer\" is an empty list");
  return vision;
}

ArchSpec read_config(const HfConfig& config) {
  const HfConfig text = text_of(config);
  ArchSpec arch = read_decoder_config(text, {.norm_eps = 1e-5, .max_positions = 262144, .kv_heads = 8});
  if (const auto dtype = config.dtype()) arch.dtype = *dtype;
  set_windows(text, arch, text.optional_integer("sliding_window"), [](size_t) { return true; });
  if (text.has("rope_parameters"))
    arch.rope.llama_4_scaling_beta = text.child("rope_parameters").optional_number("llama_4_scaling_beta");
  // transformers rounds the range where the configuration does not say.
  if (arch.rope.scaling == RopeScaling::kYarn && !arch.rope.truncate) arch.rope.truncate = true;
  arch.language_module = "language_model.";
  arch.vision = read_vision(config, arch.hidden_size);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const VisionSpec& vision = *arch.vision;
  const auto& window = arch.layers[0].attention.window;
  config.set("sliding_window", window ? Json(*window) : Json());
  if (arch.rope.llama_4_scaling_beta)
    config.find("rope_parameters")->set("llama_4_scaling_beta", *arch.rope.llama_4_scaling_beta);
  for (const char* key : {"rope_theta", "rope_scaling"}) config.erase(key);  // the class came with transformers 5
  nest_text_config(config, arch.rope.llama_4_scaling_beta ? "ministral3" : "mistral");
  Json tower = Json::object();
  tower.set("head_dim", vision.head_dim);
  tower.set("hidden_size", vision.hidden_size);
  tower.set("image_size", vision.image_size);
  tower.set("intermediate_size", vision.ffn_hidden_size);
  tower.set("model_type", "pixtral");
  tower.set("num_attention_heads", vision.num_heads);
  tower.set("num_channels", vision.num_channels);
  tower.set("num_hidden_layers", vision.num_layers);
  tower.set("patch_size", vision.patch_size);
  Json layers = Json::array();
  for (const int64_t layer : vision.feature_layers) layers.items().push_back(Json(layer));
  config.set("multimodal_projector_bias", vision.projector_bias);
  config.set("spatial_merge_size", vision.merge_size);
  config.set("vision_config", std::move(tower));
  config.set("vision_feature_layer", layers.items().size() == 1 ? layers.items()[0] : layers);
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.ministral3.ministral3_provider.Ministral3ModelProvider";
  provider.set_layer_spec("megatron.bridge.models.ministral3.ministral3_provider.ministral_layer_spec");
  provider.make_vocab_size_divisible_by = 128;
  provider.scatter_embedding_sequence_parallel = false;
  provider.yarn_correction_range_round_to_int = arch.rope.truncate;
}

// A configuration inside of the other one: a plain mapping there.
Yaml inner_object(const TransformersClass& type, const HfConfig& config) {
  Yaml object = transformers_object(type, config.document());
  object.erase("_target_");
  const auto dtype = config.dtype();
  object.set("dtype", dtype ? Yaml(std::string(torch_name(*dtype))) : Yaml());
  object.set("output_attentions", false);
  object.set("transformers_version", kTransformersVersion);
  return object;
}

void complete_provider(const HfConfig& config, const ArchSpec& arch, config::ModelConfig& provider) {
  provider.image_token_id = config.integer_or("image_token_index", config.integer_or("image_token_id", 10));
  provider.hf_config = transformers_object(kWhole, config.document());
  provider.hf_config.set("text_config", inner_object(kText, text_of(config)));
  provider.hf_config.set("vision_config", inner_object(kVision, vision_of(config)));
  provider.hf_config.set("tie_word_embeddings", arch.embedding.tied);
}

void complete_config(const config::ModelConfig& provider, Json& config) {
  config.set("image_token_index", provider.image_token_id);
  const Json whole = transformers_values(provider.hf_config);
  for (const char* part : {"text_config", "vision_config"})
    if (const Json* values = whole.find(part); values && values->is_object())
      add_missing(transformers_values(to_yaml(*values)), *config.find(part));
  add_missing(whole, config);
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("Ministral3ModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  const HfConfig config(transformers_values(provider.hf_config), "run_config.yaml: model.hf_config");
  arch.language_module = "language_model.";
  arch.vision = read_vision(config, arch.hidden_size);
  if (!config.has("text_config")) return;
  const HfConfig text = config.child("text_config");
  if (text.has("rope_parameters"))
    arch.rope.llama_4_scaling_beta = text.child("rope_parameters").optional_number("llama_4_scaling_beta");
}

}  // namespace

Family ministral3_family() {
  WeightTable weights;
  weights.add(inside(decoder_rules(), "language_model.", "model.", "language_model.model."))
      .add(same("language_model.output_layer.weight", "language_model.lm_head.weight"))
      .subtree("vision_tower.", "vision_tower.")
      .subtree("multi_modal_projector.", "multi_modal_projector.")
      .derived({"language_model.lm_head.weight", DerivedTensor::Kind::kCopy,
                "language_model.model.embed_tokens.weight"});
  WeightTable modules = with_module_names(weights);
  return {
      .name = "ministral3",
      .title = "Ministral 3",
      .architecture = "Mistral3ForConditionalGeneration",
      .model_type = "mistral3",
      .toy_config = R"({"dtype": "bfloat16", "image_token_index": 10, "multimodal_projector_bias": false,
        "projector_hidden_act": "gelu", "spatial_merge_size": 2, "tie_word_embeddings": false,
        "text_config": {"attention_dropout": 0.0, "bos_token_id": 1, "dtype": "bfloat16", "eos_token_id": 2,
          "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
          "intermediate_size": 160, "max_position_embeddings": 512, "model_type": "ministral3",
          "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2, "pad_token_id": null,
          "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "yarn", "factor": 16.0,
            "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
            "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
          "sliding_window": null, "tie_word_embeddings": false, "use_cache": true, "vocab_size": 256},
        "vision_config": {"attention_dropout": 0.0, "dtype": "bfloat16", "head_dim": 16, "hidden_act": "silu",
          "hidden_size": 32, "image_size": 32, "initializer_range": 0.02, "intermediate_size": 56,
          "model_type": "pixtral", "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 2,
          "patch_size": 4, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        "vision_feature_layer": -1})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"ministral-3-3b", "mistralai/Ministral-3-3B-Base-2512",
               R"({"tie_word_embeddings": true,
                   "text_config": {"hidden_size": 3072, "intermediate_size": 9216, "num_hidden_layers": 26,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
                     "max_position_embeddings": 262144, "tie_word_embeddings": true},
                   "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                     "num_attention_heads": 16, "head_dim": 64, "image_size": 1540, "patch_size": 14}})"},
              {"ministral-3-8b", "mistralai/Ministral-3-8B-Base-2512",
               R"({"text_config": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
                     "max_position_embeddings": 262144},
                   "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                     "num_attention_heads": 16, "head_dim": 64, "image_size": 1540, "patch_size": 14}})"},
              {"ministral-3-14b", "mistralai/Ministral-3-14B-Base-2512",
               R"({"text_config": {"hidden_size": 5120, "intermediate_size": 16384, "num_hidden_layers": 40,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
                     "max_position_embeddings": 262144},
                   "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                     "num_attention_heads": 16, "head_dim": 64, "image_size": 1540, "patch_size": 14}})"},
          },
      .other_forms = {{"transformers' module names", std::move(modules), has_module_names}},
      .sources = "safetensors, pytorch_model*.bin, torch_dist; tensor names of transformers 4 and 5",
      .complete_provider = complete_provider,
      .complete_config = complete_config,
  };
}

}  // namespace viaduct::models
