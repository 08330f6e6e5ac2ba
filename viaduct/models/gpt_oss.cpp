// GPT-oss: every layer routed, biases everywhere, one learned logit a head in the softmax, windows on every other
// layer, yarn, and gate and up by turns in tensors of all experts.
#include "viaduct/models/decoder.h"
#include "viaduct/models/family.h"
#include "viaduct/models/hf_defaults.h"

namespace viaduct::models {
namespace {

constexpr std::string_view kUsualRope =
    R"({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
  "truncate": false, "original_max_position_embeddings": 4096})";

ArchSpec read_config(const HfConfig& given) {
  const bool has_rope = given.has("rope_parameters") || given.has("rope_scaling");
  const HfConfig config = has_rope ? given : with(given, "rope_scaling", Json::parse(kUsualRope, "rope"));
  ArchSpec arch = read_decoder_config(
      config, {.norm_eps = 1e-5, .rope_theta = 150000.0, .max_positions = 131072, .head_dim = 64, .kv_heads = 8});
  if (!config.boolean_or("attention_bias", true))
    config.fail("\"attention_bias\" is false; Megatron has one switch for the biases of attention and experts");
  if (arch.rope.scaling != RopeScaling::kYarn)
    config.fail("the rope type is not \"yarn\", which Megatron's GPT-oss has");
  if (!arch.rope.truncate) arch.rope.truncate = true;
  MoeSpec moe;
  moe.num_experts = config.integer("num_local_experts");
  moe.top_k = config.integer_or(config.has("num_experts_per_tok") ? "num_experts_per_tok" : "experts_per_token", 4);
  moe.router_bias = true;
  moe.balancing = RouterBalancing::kNone;
  moe.aux_loss_coeff = config.number_or("router_aux_loss_coef", 0.001);
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = true;
    layer.attention.sinks = true;
    layer.mlp.activation = Activation::kQuickGelu;  // transformers computes it whatever "hidden_act" says
    layer.mlp.bias = true;
    layer.mlp.clamp = 7.0;  // transformers' own constants, whatever "swiglu_limit" says
    layer.mlp.up_offset = 1.0;
    layer.moe = moe;
  }
  const bool absent = !config.document().contains("sliding_window");
  set_windows(config, arch, absent ? std::optional<int64_t>(128) : config.optional_integer("sliding_window"),
              [](size_t layer) { return layer % 2 == 0; });
  return arch;
}

void write_config(const ArchSpec& arch, Json& config) {
  const MoeSpec& moe = *arch.layers[0].moe;
  Json types = Json::array();
  std::optional<int64_t> window;
  for (const LayerSpec& layer : arch.layers) {
    types.items().push_back(Json(layer.attention.window ? "sliding_attention" : "full_attention"));
    if (layer.attention.window) window = layer.attention.window;
  }
  config.set("attention_bias", true);
  config.set("experts_per_token", moe.top_k);
  config.set("hidden_act", "silu");
  config.set("layer_types", std::move(types));
  config.set("num_experts_per_tok", moe.top_k);
  config.set("num_local_experts", moe.num_experts);
  config.set("router_aux_loss_coef", moe.aux_loss_coeff);
  config.set("sliding_window", window ? Json(*window) : Json());
  config.set("swiglu_limit", 7.0);
}

void set_provider(const ArchSpec& arch, config::ModelConfig& provider) {
  provider.autocast_dtype = DType::kBF16;
  provider.bias_activation_fusion = true;
  provider.add_qkv_bias = false;  // add_bias_linear brings it
  // The usual pattern is a number: every second layer sees everything.
  bool usual = provider.window_attn_skip_freq.has_value();
  for (size_t i = 0; i < arch.layers.size(); ++i)
    usual &= arch.layers[i].attention.window.has_value() == (i % 2 == 0);
  if (usual || (arch.num_layers() == 1 && provider.window_size)) provider.window_attn_skip_freq = int64_t{2};
}

bool recognises(const config::ModelConfig& provider) {
  return (provider.softmax_type == "learnable" && provider.num_moe_experts && provider.glu_linear_offset == 1.0) ||
         config::last_word(provider.target).starts_with("GPTOSS");
}

void read_provider(const config::ModelConfig&, ArchSpec& arch) {
  for (LayerSpec& layer : arch.layers) {
    layer.attention.qkv_bias = layer.attention.output_bias = layer.attention.sinks = true;
    if (layer.moe) layer.moe->router_bias = true;
  }
}

// The table for bf16 tensors, [experts, in, out], and for those that MXFP4 blocks stand for, [experts, out, in].
WeightTable table(ExpertAxes axes) {
  const std::string mega = "decoder.layers.*.", hf = "model.layers.*.";
  const std::string experts = mega + "mlp.experts.linear_", fused = hf + "mlp.experts.";
  WeightTable weights;
  weights.add(decoder_rules())
      .add(same(mega + "self_attention.core_attention.softmax_offset", hf + "self_attn.sinks"))
      .add(same(mega + "pre_mlp_layernorm.weight", hf + "post_attention_layernorm.weight"))
      .add(same(mega + "mlp.router.weight", hf + "mlp.router.weight"))
      .add(same(mega + "mlp.router.bias", hf + "mlp.router.bias"))
      .add(fused_gate_and_up(experts + "fc1.weight*", fused + "gate_up_proj", axes, GateAndUp::kByTurns))
      .add(fused_gate_and_up(experts + "fc1.bias*", fused + "gate_up_proj_bias", axes, GateAndUp::kByTurns))
      .add(fused_expert(experts + "fc2.weight*", fused + "down_proj", axes))
      .add(fused_expert(experts + "fc2.bias*", fused + "down_proj_bias", axes))
      .derived({"lm_head.weight", DerivedTensor::Kind::kCopy, "model.embed_tokens.weight"});
  return weights;
}

bool has_blocks(const HfConfig&, const ArchSpec&, const TensorShapes& shapes) {
  return shapes("model.layers.0.mlp.experts.gate_up_proj_blocks").has_value();
}

}  // namespace

Family gpt_oss_family() {
  return {
      .name = "gpt_oss",
      .title = "GPT-oss",
      .architecture = "GptOssForCausalLM",
      .model_type = "gpt_oss",
      .toy_config = R"({"attention_bias": true, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "bfloat16", "experts_per_token": 4, "head_dim": 32, "hidden_act": "silu", "hidden_size": 64,
        "initializer_range": 0.02, "intermediate_size": 64,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "max_position_embeddings": 256, "num_attention_heads": 4, "num_experts_per_tok": 4, "num_hidden_layers": 4,
        "num_key_value_heads": 2, "num_local_experts": 8, "output_router_logits": false, "pad_token_id": 0,
        "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 150000.0, "rope_type": "yarn", "factor": 32.0,
          "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false},
        "router_aux_loss_coef": 0.001, "sliding_window": 6, "swiglu_limit": 7.0, "tie_word_embeddings": false,
        "use_cache": true, "vocab_size": 256})",
      .read_config = read_config,
      .write_config = write_config,
      .set_provider = set_provider,
      .recognises = recognises,
      .read_provider = read_provider,
      .weights = table(ExpertAxes::kInOut),
      .sizes =
          {
              {"gpt-oss-20b", "openai/gpt-oss-20b",
               R"({"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32, "sliding_window": 128,
                   "vocab_size": 201088, "max_position_embeddings": 131072, "layer_types": null})"},
              {"gpt-oss-120b", "openai/gpt-oss-120b",
               R"({"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128, "sliding_window": 128,
                   "vocab_size": 201088, "max_position_embeddings": 131072, "layer_types": null})"},
          },
      .other_forms = {{"MXFP4", table(ExpertAxes::kOutIn), has_blocks}},
      .sources = "safetensors in bf16, fp16 and fp32; experts in MXFP4 (blocks and scales); torch_dist",
  };
}

}  // namespace viaduct::models
