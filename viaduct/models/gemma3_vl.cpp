// Gemma 3 with images (4B, 12B, 27B): Gemma 3's language model behind transformers' SigLIP tower, which Megatron
// holds as it is, and a projector.
#include "viaduct/models/family.h"
#include "viaduct/models/gemma3_projector.h"
#include "viaduct/models/gemma3_text.h"
#include "viaduct/models/hf_defaults.h"
#include "viaduct/models/vision_language.h"

namespace viaduct::models {
namespace {

constexpr TransformersClass kVision = {
    "transformers.models.siglip.configuration_siglip.SiglipVisionConfig",
    R"({"attention_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 768, "image_size": 224,
        "intermediate_size": 3072, "layer_norm_eps": 1e-06, "model_type": "siglip_vision_model",
        "num_attention_heads": 12, "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16})"};

VisionSpec read_vision(const HfConfig& config, int64_t text_hidden_size) {
  VisionSpec vision;
  vision.tower = VisionTower::kSiglip;
  vision.num_layers = config.integer_or("num_hidden_layers", 12);
  vision.hidden_size = config.integer_or("hidden_size", 768);
  vision.ffn_hidden_size = config.integer_or("intermediate_size", 3072);
  set_heads(config, "num_attention_heads", 12, vision);
  vision.image_size = config.integer_or("image_size", 224);
  vision.patch_size = config.integer_or("patch_size", 16);
  if (vision.patch_size < 1 || vision.image_size < vision.patch_size || vision.image_size > (1 << 16))
    config.fail(fmt::format("\"image_size\" {} with \"patch_size\" {}", vision.image_size, vision.patch_size));
  const int64_t side = vision.image_size / vision.patch_size;
  vision.num_positions = side * side;
  vision.num_channels = config.integer_or("num_channels", 3);
  vision.output_size = text_hidden_size;
  vision.attention_bias = true;
  vision.norm_eps = config.number_or("layer_norm_eps", 1e-6);
  if (config.boolean_or("vision_use_head", false))
    config.fail("\"vision_use_head\" is true; Megatron's tower has no pooling head");
  return vision;
}

HfConfig vision_of(const HfConfig& config) {
  return config.has("vision_config") ? config.child("vision_config") : HfConfig(Json::object(), config.origin());
}

ArchSpec read_config(const HfConfig& config) {
  const HfConfig text = config.child("text_config");
  ArchSpec arch = read_gemma3_text(text);
  if (const auto dtype = config.dtype()) arch.dtype = *dtype;
  if (!text.has("tie_word_embeddings")) arch.embedding.tied = config.boolean_or("tie_word_embeddings", true);
  arch.language_module = "language_model.";
  arch.vision = read_vision(vision_of(config), arch.hidden_size);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const VisionSpec& vision = *arch.vision;
  write_gemma3_text(arch, config);
  nest_text_config(config, "gemma3_text");
  Json tower = Json::object();
  tower.set("hidden_act", "gelu_pytorch_tanh");
  tower.set("hidden_size", vision.hidden_size);
  tower.set("image_size", vision.image_size);
  tower.set("intermediate_size", vision.ffn_hidden_size);
  tower.set("layer_norm_eps", vision.norm_eps);
  tower.set("model_type", "siglip_vision_model");
  tower.set("num_attention_heads", vision.num_heads);
  tower.set("num_channels", vision.num_channels);
  tower.set("num_hidden_layers", vision.num_layers);
  tower.set("patch_size", vision.patch_size);
  tower.set("vision_use_head", false);
  config.set("initializer_range", arch.init_std);
  config.set("vision_config", std::move(tower));
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.gemma_vl.gemma3_vl_provider.Gemma3VLModelProvider";
  set_gemma3_text_provider(arch, provider);
  provider.set_attention_backend("fused");
  provider.is_vision_language = true;
  provider.make_vocab_size_divisible_by = 128;
  provider.scatter_embedding_sequence_parallel = false;
}

void complete_provider(const HfConfig& config, const ArchSpec& arch, config::ModelConfig& provider) {
  provider.mm_tokens_per_image = config.integer_or("mm_tokens_per_image", 256);
  provider.bos_token_id = token_id(config, "bos_token_id", 0);
  provider.eos_token_id = token_ids(config, "eos_token_id", 1);
  provider.vision_start_token_id = config.integer_or("vision_start_token_id", 255999);
  provider.vision_end_token_id = config.integer_or("vision_end_token_id", 256000);
  provider.image_token_id = config.integer_or("image_token_id", config.integer_or("image_token_index", 262144));
  provider.vision_config = transformers_object(kVision, vision_of(config).document());
  provider.vision_config.set("vision_use_head", false);
  provider.vision_projector_config = gemma3_projector_config(arch, provider.mm_tokens_per_image);
}

void complete_config(const config::ModelConfig& provider, Json& config) {
  config.set("bos_token_id", provider.bos_token_id ? Json(*provider.bos_token_id) : Json());
  config.set("eos_token_id", to_json(config::Codec<config::OptIntOrInts>::encode(provider.eos_token_id)));
  config.set("image_token_index", provider.image_token_id);
  config.set("mm_tokens_per_image", provider.mm_tokens_per_image);
  add_missing(transformers_values(provider.vision_config), *config.find("vision_config"));
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("Gemma3VLModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  read_gemma3_text_provider(provider, arch);
  arch.language_module = "language_model.";
  arch.vision = read_vision(vision_config_of(provider), arch.hidden_size);
}

// The tower inside of a module of its own, as transformers 4 has it, with either names.
bool has_inner_tower(const HfConfig&, const ArchSpec&, const TensorShapes& shapes) {
  return shapes("vision_tower.vision_model.post_layernorm.weight").has_value();
}

bool has_module_names_inner_tower(const HfConfig&, const ArchSpec&, const TensorShapes& shapes) {
  return shapes("model.vision_tower.vision_model.post_layernorm.weight").has_value();
}

}  // namespace

Family gemma3_vl_family() {
  WeightTable weights;
  weights.add(inside(gemma3_text_rules(), "language_model.", "model.", "language_model.model."))
      .add(same("language_model.output_layer.weight", "language_model.lm_head.weight"))
      .add(same("multi_modal_projector.mm_soft_embed_norm.weight", "multi_modal_projector.mm_soft_emb_norm.weight"))
      .add(transposed("multi_modal_projector.proj.weight", "multi_modal_projector.mm_input_projection_weight"))
      .subtree("vision_tower.", "vision_tower.")
      .derived({"language_model.lm_head.weight", DerivedTensor::Kind::kCopy,
                "language_model.model.embed_tokens.weight"});
  WeightTable inner_tower = weights.renamed({{"vision_tower.", "vision_tower.vision_model."}});
  WeightTable modules = with_module_names(weights);
  WeightTable modules_inner_tower = modules.renamed({{"model.vision_tower.", "model.vision_tower.vision_model."}});
  return {
      .name = "gemma3_vl",
      .title = "Gemma 3 (vision-language)",
      .architecture = "Gemma3ForConditionalGeneration",
      .model_type = "gemma3",
      .toy_config = R"({"bos_token_id": 1, "dtype": "bfloat16", "eos_token_id": 2, "image_token_index": 253,
        "initializer_range": 0.02, "mm_tokens_per_image": 4, "tie_word_embeddings": true,
        "text_config": {"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "dtype": "bfloat16",
          "eos_token_id": 2, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 48,
          "initializer_range": 0.02, "intermediate_size": 96,
          "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "full_attention", "sliding_attention"],
          "max_position_embeddings": 256, "model_type": "gemma3_text", "num_attention_heads": 4,
          "num_hidden_layers": 7, "num_key_value_heads": 2, "pad_token_id": 0, "query_pre_attn_scalar": 24,
          "rms_norm_eps": 1e-06,
          "rope_parameters": {"full_attention": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}},
          "sliding_window": 6, "tie_word_embeddings": true, "use_cache": true, "vocab_size": 256},
        "vision_config": {"attention_dropout": 0.0, "dtype": "bfloat16", "hidden_act": "gelu_pytorch_tanh",
          "hidden_size": 32, "image_size": 16, "intermediate_size": 56, "layer_norm_eps": 1e-06,
          "model_type": "siglip_vision_model", "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 2,
          "patch_size": 4, "vision_use_head": false}})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = std::move(weights),
      .sizes =
          {
              {"gemma-3-4b", "google/gemma-3-4b-it",
               R"({"text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                     "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024,
                     "vocab_size": 262208, "layer_types": null, "query_pre_attn_scalar": 256},
                   "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                     "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14}})"},
              {"gemma-3-12b", "google/gemma-3-12b-it",
               R"({"text_config": {"hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48,
                     "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024,
                     "vocab_size": 262208, "layer_types": null, "query_pre_attn_scalar": 256},
                   "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                     "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14}})"},
              {"gemma-3-27b", "google/gemma-3-27b-it",
               R"({"text_config": {"hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62,
                     "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024,
                     "vocab_size": 262208, "layer_types": null, "query_pre_attn_scalar": 168},
                   "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                     "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14}})"},
          },
      .other_forms = {{"transformers 4", std::move(inner_tower), has_inner_tower},
                      {"transformers 4's module names", std::move(modules_inner_tower),
                       has_module_names_inner_tower},
                      {"transformers' module names", std::move(modules), has_module_names}},
      .sources = "safetensors, pytorch_model*.bin, torch_dist; tensor names of transformers 4 and 5",
      .complete_provider = complete_provider,
      .complete_config = complete_config,
  };
}

}  // namespace viaduct::models
