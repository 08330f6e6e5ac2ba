#include "viaduct/models/qwen_vl.h"

namespace viaduct::models {

using config::ModelConfig;
using config::OptInt;
using config::Yaml;

ArchSpec read_qwen_vl_text(const HfConfig& config, const HfConfig& text, const DecoderDefaults& defaults) {
  ArchSpec arch = read_decoder_config(text, defaults);
  if (!text.dtype()) arch.dtype = config.dtype().value_or(DType::kF32);
  arch.embedding.tied = config.boolean_or("tie_word_embeddings", false);
  arch.language_module = "language_model.";
  if (arch.rope.scaling != RopeScaling::kNone)
    text.fail(
        "rope positions of three axes that are also scaled have no Megatron form; use the model without rope "
        "scaling");
  return arch;
}

void set_token_ids(const HfConfig& config, const HfConfig& text, OptInt bos, OptInt eos, ModelConfig& provider) {
  provider.bos_token_id = token_id(text, "bos_token_id", bos);
  provider.eos_token_id = token_ids(text, "eos_token_id", eos);
  provider.vision_start_token_id = config.integer_or("vision_start_token_id", 151652);
  provider.vision_end_token_id = config.integer_or("vision_end_token_id", 151653);
  provider.image_token_id = config.integer_or("image_token_id", 151655);
  provider.video_token_id = config.integer_or("video_token_id", 151656);
}

void write_token_ids(const ModelConfig& provider, Json& config) {
  Json& text = *config.find("text_config");
  text.set("bos_token_id", provider.bos_token_id ? Json(*provider.bos_token_id) : Json());
  text.set("eos_token_id", to_json(config::Codec<config::OptIntOrInts>::encode(provider.eos_token_id)));
  config.set("image_token_id", provider.image_token_id);
  config.set("video_token_id", provider.video_token_id);
  config.set("vision_start_token_id", provider.vision_start_token_id);
  config.set("vision_end_token_id", provider.vision_end_token_id);
}

namespace {

constexpr std::string_view kQwen3Vision = R"({"deepstack_visual_indexes": [8, 16, 24], "depth": 27,
  "hidden_act": "gelu_pytorch_tanh", "hidden_size": 1152, "in_channels": 3, "initializer_range": 0.02,
  "intermediate_size": 4304, "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 3584,
  "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2})";

Json integers_json(const std::vector<int64_t>& values) {
  Json list = Json::array();
  for (const int64_t value : values) list.items().push_back(Json(value));
  return list;
}

}  // namespace

VisionSpec read_qwen3_vision(const HfConfig& config, int64_t text_hidden_size) {
  const std::string activation = config.text_or("hidden_act", "gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh")
    config.fail(
        fmt::format("\"hidden_act\" is \"{}\"; Megatron's vision tower has gelu_pytorch_tanh alone", activation));
  VisionSpec vision;
  vision.tower = VisionTower::kQwen3;
  vision.num_layers = config.integer_or("depth", 27);
  vision.hidden_size = config.integer_or("hidden_size", 1152);
  vision.ffn_hidden_size = config.integer_or("intermediate_size", 4304);
  set_heads(config, "num_heads", 16, vision);
  vision.patch_size = config.integer_or("patch_size", 16);
  vision.temporal_patch_size = config.integer_or("temporal_patch_size", 2);
  vision.num_channels = config.integer_or("in_channels", 3);
  vision.num_positions = config.integer_or("num_position_embeddings", 2304);
  vision.merge_size = config.integer_or("spatial_merge_size", 2);
  vision.output_size = config.integer_or("out_hidden_size", 3584);
  if (vision.output_size != text_hidden_size)
    config.fail(fmt::format("\"out_hidden_size\" is {}, but the language model's \"hidden_size\" is {}",
                            vision.output_size, text_hidden_size));
  vision.deepstack_layers = {8, 16, 24};
  if (config.has("deepstack_visual_indexes")) vision.deepstack_layers = config.integers("deepstack_visual_indexes");
  for (const int64_t layer : vision.deepstack_layers)
    if (layer < 0 || layer >= vision.num_layers)
      config.fail(fmt::format("\"deepstack_visual_indexes\" names layer {} of {}", layer, vision.num_layers));
  return vision;
}

Json qwen3_vision_json(const VisionSpec& vision, DType dtype, std::string_view type) {
  Json json = Json::parse(kQwen3Vision, "defaults");
  json.set("deepstack_visual_indexes", integers_json(vision.deepstack_layers));
  json.set("depth", vision.num_layers);
  json.set("dtype", torch_name(dtype));
  json.set("hidden_size", vision.hidden_size);
  json.set("in_channels", vision.num_channels);
  json.set("intermediate_size", vision.ffn_hidden_size);
  json.set("model_type", type);
  json.set("num_heads", vision.num_heads);
  json.set("num_position_embeddings", vision.num_positions);
  json.set("out_hidden_size", vision.output_size);
  json.set("patch_size", vision.patch_size);
  json.set("spatial_merge_size", vision.merge_size);
  json.set("temporal_patch_size", vision.temporal_patch_size);
  return json;
}

void set_qwen3_vl_provider(ModelConfig& provider) {
  provider.position_embedding_type = "mrope";
  if (!provider.mrope_section) provider.mrope_section = config::Ints{24, 20, 20};
  provider.scatter_embedding_sequence_parallel = false;
  provider.attention_softmax_in_fp32 = true;
  provider.bias_activation_fusion = true;
  provider.deepstack_visual_indexes = {8, 16, 24};  // unused upstream: vision_config's count
  provider.dist_train =
      Yaml::mapping({{"_target_", "megatron.bridge.models.qwen_vl.qwen3_vl_provider.DistTrainConfig"},
                     {"use_dist_train", false}});
  for (const char* key :
       {"language_world_size", "vision_context_parallel_size", "vision_expert_model_parallel_size",
        "vision_expert_tensor_parallel_size", "vision_pipeline_model_parallel_size",
        "vision_tensor_model_parallel_size", "vision_to_llm_dp_ratio", "vision_world_size"})
    provider.dist_train.set(key, {});
}

void complete_qwen3_vl_provider(const HfConfig& config, const ArchSpec& arch, const TransformersClass& text,
                                std::string_view vision_target, ModelConfig& provider) {
  provider.hf_text_config = transformers_object(text, config.child("text_config").document());
  Json vision = config.child("vision_config").document();
  vision.set("dtype", torch_name(arch.dtype));
  // Old files give the whole model's type here.
  if (const Json* type = vision.find("model_type"); type && *type == Json(config.model_type()))
    vision.set("model_type", config.model_type() + "_vision");
  provider.vision_config = transformers_object({vision_target, kQwen3Vision}, vision);
}

void complete_qwen3_vl_config(const ModelConfig& provider, Json& config) {
  write_token_ids(provider, config);
  add_missing(transformers_values(provider.hf_text_config), *config.find("text_config"));
  add_missing(transformers_values(provider.vision_config), *config.find("vision_config"));
}

void read_qwen3_vl_provider(const ModelConfig& provider, ArchSpec& arch) {
  arch.language_module = "language_model.";
  arch.rope.mrope_interleaved = true;
  for (LayerSpec& layer : arch.layers) layer.attention.output_bias = layer.attention.qkv_bias;
  arch.vision = read_qwen3_vision(vision_config_of(provider), arch.hidden_size);
}

std::vector<WeightRule> qwen3_vision_rules() {
  const std::string mega = "vision_model.", hf = "model.visual.";
  const std::string layer = mega + "decoder.layers.*.", block = hf + "blocks.*.";
  std::vector<WeightRule> rules = {same(mega + "pos_embed.weight", hf + "pos_embed.weight")};
  const auto add = [&](const std::string& to, const std::string& from) {
    for (const char* part : {"weight", "bias"}) rules.push_back(same(to + part, from + part));
  };
  add(mega + "patch_embed.proj.", hf + "patch_embed.proj.");
  add(layer + "self_attention.linear_proj.", block + "attn.proj.");
  add(layer + "self_attention.linear_qkv.layer_norm_", block + "norm1.");
  add(layer + "mlp.linear_fc1.layer_norm_", block + "norm2.");
  for (const char* linear : {"linear_fc1.", "linear_fc2."}) add(layer + "mlp." + linear, block + "mlp." + linear);
  for (const char* part : {"weight", "bias"})
    rules.push_back(
        vision_query_key_value(layer + "self_attention.linear_qkv." + part, block + "attn.qkv." + part));
  for (const auto& [to, from] :
       {std::pair(mega + "merger.", hf + "merger."),
        std::pair(mega + "decoder.deepstack_merger_list.*.", hf + "deepstack_merger_list.*.")}) {
    add(to + "patch_norm.", from + "norm.");
    for (const char* linear : {"linear_fc1.", "linear_fc2."}) add(to + linear, from + linear);
  }
  return rules;
}

}  // namespace viaduct::models
