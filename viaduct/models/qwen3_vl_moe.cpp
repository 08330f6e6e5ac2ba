// Qwen3-VL with experts: every layer of the language model routed, the experts of a layer together in one tensor.
#include "viaduct/models/family.h"
#include "viaduct/models/qwen_vl.h"

namespace viaduct::models {
namespace {

constexpr TransformersClass kText = {
    "transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe.Qwen3VLMoeTextConfig",
    R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": null, "decoder_sparse_step": 1,
        "eos_token_id": null, "head_dim": null, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 128000,
        "mlp_only_layers": [], "moe_intermediate_size": 1408, "num_attention_heads": 16, "num_experts": 60,
        "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16, "pad_token_id": null,
        "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": true, "use_cache": true,
        "vocab_size": 151936})"};
constexpr std::string_view kVision =
    "transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe.Qwen3VLMoeVisionConfig";

int64_t num_experts(const HfConfig& text) {
  return text.has("num_experts") ? text.integer("num_experts") : text.integer_or("num_local_experts", 60);
}

ArchSpec read_config(const HfConfig& config) {
  const HfConfig text = config.child("text_config");
  ArchSpec arch =
      read_qwen_vl_text(config, text, {.rope_theta = 500000.0, .max_positions = 128000, .kv_heads = 16});
  arch.rope.mrope_interleaved = true;
  if (arch.rope.mrope_section.empty()) arch.rope.mrope_section = {24, 20, 20};
  if (text.integer_or("decoder_sparse_step", 1) != 1 || !text.integers("mlp_only_layers").empty())
    text.fail(
        "layers without experts (\"decoder_sparse_step\", \"mlp_only_layers\") have no Megatron form: Megatron "
        "Bridge's model has experts in every layer");
  MoeSpec moe;
  moe.num_experts = num_experts(text);
  moe.top_k = text.integer_or("num_experts_per_tok", 4);
  moe.router_in_fp32 = true;
  moe.aux_loss_coeff = text.number_or("router_aux_loss_coef", 0.001);
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qk_norm = QkNorm::kPerHead;
    layer.attention.qkv_bias = layer.attention.output_bias = text.boolean_or("attention_bias", false);
    layer.mlp.ffn_hidden_size = text.integer_or("moe_intermediate_size", 1408);
    layer.moe = moe;
  }
  arch.vision = read_qwen3_vision(config.child("vision_config"), arch.hidden_size);
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const LayerSpec& layer = arch.layers[0];
  config.set("attention_bias", layer.attention.qkv_bias);
  config.set("decoder_sparse_step", 1);
  config.set("mlp_only_layers", Json::array());
  config.set("moe_intermediate_size", layer.mlp.ffn_hidden_size);
  config.set("norm_topk_prob", true);
  config.set("num_experts", layer.moe->num_experts);
  config.set("num_experts_per_tok", layer.moe->top_k);
  config.set("num_local_experts", layer.moe->num_experts);
  config.set("router_aux_loss_coef", layer.moe->aux_loss_coeff);
  nest_text_config(config, "qwen3_vl_moe_text");
  config.set("vision_config", qwen3_vision_json(*arch.vision, arch.dtype, "qwen3_vl_moe_vision"));
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.target = "megatron.bridge.models.qwen_vl.qwen3_vl_provider.Qwen3VLMoEModelProvider";
  set_qwen3_vl_provider(provider);
  provider.head_dim = arch.layers[0].attention.head_dim;
  provider.moe_aux_loss_coeff = config::Number(1e-3);  // upstream's, whatever config.json says
  provider.bias_dropout_fusion = true;
  provider.cp_comm_type = "p2p";
  provider.freeze_language_model = provider.freeze_vision_model = true;
  provider.masked_softmax_fusion = false;
  provider.persist_layer_norm = true;
}

void complete_provider(const HfConfig& config, const ArchSpec& arch, config::ModelConfig& provider) {
  const HfConfig text = config.child("text_config");
  set_token_ids(config, text, std::nullopt, std::nullopt, provider);
  Json values = text.document();
  // transformers shows the number of experts under both names.
  for (const char* key : {"num_experts", "num_local_experts"}) values.set(key, num_experts(text));
  if (!text.has("head_dim")) values.set("head_dim", arch.layers[0].attention.head_dim);
  if (!text.has("mlp_only_layers")) values.set("mlp_only_layers", Json::array());
  values.set("sliding_window", {});
  Json shown = config.document();
  shown.set("text_config", std::move(values));
  complete_qwen3_vl_provider({std::move(shown), config.origin()}, arch, kText, kVision, provider);
}

bool recognises(const config::ModelConfig& provider) {
  return provider.target.find("Qwen3VLMoEModelProvider") != std::string::npos;
}

void read_provider(const config::ModelConfig& provider, ArchSpec& arch) {
  read_qwen3_vl_provider(provider, arch);
  const HfConfig text(transformers_values(provider.hf_text_config), "run_config.yaml: model.hf_text_config");
  for (LayerSpec& layer : arch.layers)
    if (layer.moe) layer.moe->aux_loss_coeff = text.number_or("router_aux_loss_coef", layer.moe->aux_loss_coeff);
}

// transformers 4 keeps [experts, in, out]. Where one tensor is square, the other tells.
bool experts_are_in_out(const HfConfig&, const ArchSpec& arch, const TensorShapes& shapes) {
  const int64_t hidden = arch.hidden_size, ffn = arch.layers[0].mlp.ffn_hidden_size;
  const auto gate_up = shapes("model.language_model.layers.0.mlp.experts.gate_up_proj");
  const auto down = shapes("model.language_model.layers.0.mlp.experts.down_proj");
  if (!gate_up || !down || gate_up->rank() != 3 || down->rank() != 3) return false;
  return hidden == 2 * ffn ? (*down)[1] == ffn : (*gate_up)[1] == hidden;
}

bool experts_are_single(const HfConfig&, const ArchSpec&, const TensorShapes& shapes) {
  return shapes("model.language_model.layers.0.mlp.experts.0.gate_proj.weight").has_value();
}

WeightTable table(const std::vector<WeightRule>& experts) {
  const auto inner = [](const std::vector<WeightRule>& rules) {
    return inside(rules, "language_model.", "model.", "model.language_model.");
  };
  WeightTable weights;
  weights.add(inner(decoder_rules()))
      .add(inner(expert_rules()))
      .add(inner(experts))
      .add(qwen3_vision_rules())
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.language_model.embed_tokens.weight"});
  return weights;
}

std::vector<WeightRule> fused(ExpertAxes axes) {
  const std::string mega = "decoder.layers.*.mlp.experts.", hf = "model.layers.*.mlp.experts.";
  return {fused_gate_and_up(mega + "linear_fc1.weight*", hf + "gate_up_proj", axes),
          fused_expert(mega + "linear_fc2.weight*", hf + "down_proj", axes)};
}

}  // namespace

Family qwen3_vl_moe_family() {
  return {
      .name = "qwen3_vl_moe",
      .title = "Qwen3-VL MoE",
      .architecture = "Qwen3VLMoeForConditionalGeneration",
      .model_type = "qwen3_vl_moe",
      .toy_config = R"({"dtype": "bfloat16", "image_token_id": 251, "video_token_id": 252,
        "vision_start_token_id": 249, "vision_end_token_id": 250, "tie_word_embeddings": false,
        "text_config": {"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
          "decoder_sparse_step": 1, "dtype": "bfloat16", "eos_token_id": 2, "head_dim": 32, "hidden_act": "silu",
          "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 160, "max_position_embeddings": 256,
          "mlp_only_layers": [], "model_type": "qwen3_vl_moe_text", "moe_intermediate_size": 48,
          "num_attention_heads": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4, "num_key_value_heads": 2,
          "num_local_experts": 4, "pad_token_id": null, "rms_norm_eps": 1e-06,
          "rope_parameters": {"mrope_interleaved": true, "mrope_section": [6, 5, 5], "rope_theta": 5000000.0,
          "rope_type": "default"}, "router_aux_loss_coef": 0.001, "sliding_window": null,
          "tie_word_embeddings": false, "use_cache": true, "vocab_size": 256},
        "vision_config": {"deepstack_visual_indexes": [0, 2], "depth": 3, "dtype": "bfloat16",
          "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32, "in_channels": 3, "initializer_range": 0.02,
          "intermediate_size": 56, "model_type": "qwen3_vl_moe_vision", "num_heads": 2,
          "num_position_embeddings": 36, "out_hidden_size": 64, "patch_size": 4, "spatial_merge_size": 2,
          "temporal_patch_size": 2}})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = table(fused(ExpertAxes::kOutIn)),
      .sizes =
          {
              {"qwen3-vl-30b-a3b", "Qwen/Qwen3-VL-30B-A3B-Instruct",
               R"({"text_config": {"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
                     "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
                     "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936},
                   "vision_config": {"out_hidden_size": 2048}})"},
              {"qwen3-vl-235b-a22b", "Qwen/Qwen3-VL-235B-A22B-Instruct",
               R"({"text_config": {"hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536,
                     "num_hidden_layers": 94, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128,
                     "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936},
                   "vision_config": {"out_hidden_size": 4096}})"},
          },
      .other_forms = {{"experts as [in, out] (transformers 4)", table(fused(ExpertAxes::kInOut)),
                       experts_are_in_out},
                      {"one tensor an expert", table({}), experts_are_single}},
      .sources = "safetensors, pytorch_model*.bin, torch_dist; experts fused (transformers 4 and 5) or one by one",
      .complete_provider = complete_provider,
      .complete_config = complete_qwen3_vl_config,
  };
}

}  // namespace viaduct::models
