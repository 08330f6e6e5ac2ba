#include "viaduct/models/gguf_architecture.h"

#include <cmath>
#include <iterator>
#include <string>

namespace viaduct::models {

namespace {

using enum GgufForm;

constexpr GgufTensorName kAttention[] = {{"attn_norm", "input_layernorm"},
                                         {"attn_q", "self_attn.q_proj"},
                                         {"attn_k", "self_attn.k_proj"},
                                         {"attn_v", "self_attn.v_proj"},
                                         {"attn_output", "self_attn.o_proj"}};
constexpr GgufTensorName kPermutedAttention[] = {{"attn_norm", "input_layernorm"},
                                                 {"attn_q", "self_attn.q_proj", kQuery},
                                                 {"attn_k", "self_attn.k_proj", kKey},
                                                 {"attn_v", "self_attn.v_proj"},
                                                 {"attn_output", "self_attn.o_proj"}};
// kv_b_proj is whole in files from before llama.cpp multiplied it into query and output.
constexpr GgufTensorName kLatentAttention[] = {{"attn_norm", "input_layernorm"},
                                               {"attn_q", "self_attn.q_proj"},
                                               {"attn_q_a", "self_attn.q_a_proj"},
                                               {"attn_q_a_norm", "self_attn.q_a_layernorm"},
                                               {"attn_q_b", "self_attn.q_b_proj"},
                                               {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
                                               {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
                                               {"attn_kv_b", "self_attn.kv_b_proj"},
                                               {"attn_k_b.weight", "self_attn.kv_b_proj.weight", kKeyUp},
                                               {"attn_v_b.weight", "self_attn.kv_b_proj.weight", kValueUp},
                                               {"attn_output", "self_attn.o_proj"}};
constexpr GgufTensorName kQueryKeyNorms[] = {{"attn_q_norm", "self_attn.q_norm"},
                                             {"attn_k_norm", "self_attn.k_norm"}};
constexpr GgufTensorName kMlpNorm[] = {{"ffn_norm", "post_attention_layernorm"}};
constexpr GgufTensorName kFourNorms[] = {{"post_attention_norm", "post_attention_layernorm"},
                                         {"ffn_norm", "pre_feedforward_layernorm"},
                                         {"post_ffw_norm", "post_feedforward_layernorm"}};
constexpr GgufTensorName kMlp[] = {
    {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};
constexpr GgufTensorName kExpertLayers[] = {{"ffn_gate_inp", "mlp.gate"},
                                            {"ffn_gate_exps", "mlp.experts.*.gate_proj", kExperts},
                                            {"ffn_up_exps", "mlp.experts.*.up_proj", kExperts},
                                            {"ffn_gate_up_exps", "mlp.experts.*.gate_up_proj", kBothExperts},
                                            {"ffn_down_exps", "mlp.experts.*.down_proj", kExperts}};
constexpr GgufTensorName kSharedExperts[] = {{"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
                                             {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
                                             {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
                                             {"ffn_down_shexp", "mlp.shared_experts.down_proj"}};
constexpr GgufTensorName kFusedExperts[] = {{"attn_sinks.weight", "self_attn.sinks"},
                                            {"post_attention_norm", "post_attention_layernorm"},
                                            {"ffn_gate_inp", "mlp.router"},
                                            {"ffn_gate_exps.weight", "mlp.experts.gate_up_proj", kGate},
                                            {"ffn_up_exps.weight", "mlp.experts.gate_up_proj", kUp},
                                            {"ffn_gate_exps.bias", "mlp.experts.gate_up_proj_bias", kGate},
                                            {"ffn_up_exps.bias", "mlp.experts.gate_up_proj_bias", kUp},
                                            {"ffn_down_exps.weight", "mlp.experts.down_proj", kDown},
                                            {"ffn_down_exps.bias", "mlp.experts.down_proj_bias", kDown}};

GgufHeads read_heads(const GgufKeys& keys) {
  GgufHeads heads;
  heads.query = keys.required_size("attention.head_count");
  heads.key_value = keys.size("attention.head_count_kv").value_or(heads.query);
  const int64_t hidden = keys.required_size("embedding_length");
  const std::optional<int64_t> rotary = keys.size("rope.dimension_count");
  heads.dim = keys.size("attention.key_length").value_or(rotary.value_or(hidden / heads.query));
  if (rotary && *rotary != heads.dim)
    fail_gguf(keys.file(),
              "{} is {} with heads of {}: a partial rotary embedding has no form in these model classes",
              keys.full("rope.dimension_count"), *rotary, heads.dim);
  if (const auto value = keys.size("attention.value_length"); value && *value != heads.dim)
    fail_gguf(keys.file(), "{} is {} with keys of {}: these model classes have one size for both",
              keys.full("attention.value_length"), *value, heads.dim);
  if (heads.dim % 2 != 0 || heads.query % heads.key_value != 0)
    fail_gguf(keys.file(), "{} heads of {} in {} groups cannot be", heads.query, heads.dim, heads.key_value);
  return heads;
}

// Keys and values of all heads come from one latent vector: what the file calls one group is as many as heads.
GgufHeads read_latent_heads(const GgufKeys& keys) {
  const int64_t heads = keys.required_size("attention.head_count");
  return {heads, heads, keys.required_size("rope.dimension_count")};
}

void set_llama(const GgufKeys& keys, const GgufHeads& heads, Json& config) {
  config.set("attention_bias", keys.file().find("blk.0.attn_q.bias") != nullptr);
  config.set("head_dim", heads.dim);
  config.set("mlp_bias", keys.file().find("blk.0.ffn_gate.bias") != nullptr);
}

void set_head_dim(const GgufKeys&, const GgufHeads& heads, Json& config) { config.set("head_dim", heads.dim); }

// Layer `i` sees everything when `sees_all(i)`.
template <class SeesAll>
void set_layer_types(const GgufKeys& keys, SeesAll sees_all, Json& config) {
  constexpr int64_t kMostLayers = 100000;
  const int64_t layers = keys.required_size("block_count");
  if (layers > kMostLayers) fail_gguf(keys.file(), "{} is {}", keys.full("block_count"), layers);
  Json types = Json::array();
  for (int64_t i = 0; i < layers; ++i)
    types.items().push_back(Json(sees_all(i) ? "full_attention" : "sliding_attention"));
  config.set("layer_types", std::move(types));
}

void set_experts(const GgufKeys& keys, Json& config) {
  config.set("num_experts", keys.required_size("expert_count"));
  config.set("num_experts_per_tok", keys.required_size("expert_used_count"));
}

// llama.cpp makes the chosen experts' weights sum to 1 in this architecture, and the file does not say it.
void set_qwen3_moe(const GgufKeys& keys, const GgufHeads& heads, Json& config) {
  config.set("decoder_sparse_step", 1);
  config.set("head_dim", heads.dim);
  config.set("mlp_only_layers", Json::array());
  config.set("moe_intermediate_size", keys.required_size("expert_feed_forward_length"));
  config.set("norm_topk_prob", true);
  set_experts(keys, config);
}

// And it does not do so in this one.
void set_olmoe(const GgufKeys& keys, const GgufHeads&, Json& config) {
  config.set("clip_qkv", nullptr);
  config.set("norm_topk_prob", false);
  set_experts(keys, config);
}

void set_gemma(const GgufKeys&, const GgufHeads& heads, Json& config) {
  config.set("attention_bias", false);
  config.set("head_dim", heads.dim);
  config.set("hidden_act", "gelu_pytorch_tanh");
  config.set("hidden_activation", "gelu_pytorch_tanh");
}

// The scale of the scores is not in the file: llama.cpp knows that of the one size, told by its layers, that does
// not go by the heads' size.
void set_query_scale(const GgufKeys& keys, const GgufHeads& heads, int64_t layers_of_largest, Json& config) {
  const bool largest = keys.required_size("block_count") == layers_of_largest;
  config.set("query_pre_attn_scalar", largest ? keys.required_size("embedding_length") / heads.query : heads.dim);
}

void set_gemma2(const GgufKeys& keys, const GgufHeads& heads, Json& config) {
  set_gemma(keys, heads, config);
  config.erase("hidden_act");
  const auto cap = [&](const char* key, double usual) {
    const double value = keys.number(key).value_or(usual);
    return value == 0 ? Json() : Json(value);
  };
  config.set("attn_logit_softcapping", cap("attn_logit_softcapping", 50.0));
  config.set("final_logit_softcapping", cap("final_logit_softcapping", 30.0));
  set_query_scale(keys, heads, 46, config);
  config.set("sliding_window", keys.size("attention.sliding_window").value_or(4096));
}

// Without a window the file is of a model whose layers all see everything; with one, each sixth does.
void set_gemma3(const GgufKeys& keys, const GgufHeads& heads, Json& config) {
  set_gemma(keys, heads, config);
  config.erase("hidden_act");
  const auto window = keys.size("attention.sliding_window");
  const int64_t period = window ? keys.size("attention.sliding_window_pattern").value_or(6) : 1;
  set_layer_types(
      keys, [&](int64_t layer) { return (layer + 1) % period == 0; }, config);
  set_query_scale(keys, heads, 62, config);
  config.set("rope_local_base_freq", keys.number("rope.freq_base_swa").value_or(10000.0));
  config.set("sliding_window", window.value_or(4096));
  config.set("sliding_window_pattern", period);
}

// How the choice of experts is limited: (groups, chosen groups). Files from before the autumn of 2025 do not say
// it; the published models are known by the number of their experts.
std::pair<int64_t, int64_t> expert_groups(const GgufKeys& keys, int64_t experts) {
  if (const auto groups = keys.size("expert_group_count"))
    return {*groups, keys.required_size("expert_group_used_count")};
  switch (experts) {
    case 64:
    case 384: return {1, 1};
    case 160: return {8, 3};
    case 256: return {8, 4};
    default:
      fail_gguf(keys.file(),
                "metadata key {} is missing, and no published model has {} experts: convert the original model to "
                "GGUF again with a newer llama.cpp",
                keys.full("expert_group_count"), experts);
  }
}

void set_deepseek(const GgufKeys& keys, const GgufHeads& heads, Json& config) {
  constexpr int64_t kSoftmax = 1, kSigmoid = 2;
  const int64_t gating = keys.integer("expert_gating_func").value_or(kSoftmax);
  if (gating != kSoftmax && gating != kSigmoid)
    fail_gguf(keys.file(), "{} is {}; 1 (softmax) and 2 (sigmoid) can be read", keys.full("expert_gating_func"),
              gating);
  const bool sigmoid = gating == kSigmoid;
  const int64_t experts = keys.required_size("expert_count");
  const auto [groups, chosen_groups] = expert_groups(keys, experts);
  // Where keys and values are multiplied into query and output, the plain lengths are those of the latent vector.
  const auto length = [&](const std::string& key) {
    return keys.size(key + "_mla").value_or(keys.required_size(key));
  };
  const int64_t key_length = length("attention.key_length");
  if (key_length <= heads.dim)
    fail_gguf(keys.file(), "keys of {}, {} of them rotated: none is left for the latent vector", key_length,
              heads.dim);
  if (sigmoid) {
    config.set("architectures", Json::array({Json("DeepseekV3ForCausalLM")}));
    config.set("model_type", "deepseek_v3");
  }
  const int64_t dense = keys.integer("leading_dense_block_count").value_or(0);
  const auto q_rank = keys.size("attention.q_lora_rank");
  config.set("attention_bias", false);
  config.set("first_k_dense_replace", dense);
  config.set("head_dim", heads.dim);
  config.set("kv_lora_rank", keys.required_size("attention.kv_lora_rank"));
  config.set("moe_intermediate_size", keys.required_size("expert_feed_forward_length"));
  config.set("moe_layer_freq", 1);
  config.set("n_group", groups);
  config.set("n_routed_experts", experts);
  config.set("n_shared_experts", keys.integer("expert_shared_count").value_or(0));
  config.set("norm_topk_prob", keys.flag("expert_weights_norm").value_or(false));
  config.set("num_experts_per_tok", keys.required_size("expert_used_count"));
  config.set("num_nextn_predict_layers", 0);
  config.set("q_lora_rank", q_rank ? Json(*q_rank) : Json());
  config.set("qk_nope_head_dim", key_length - heads.dim);
  config.set("qk_rope_head_dim", heads.dim);
  config.set("rope_interleave", true);
  config.set("routed_scaling_factor", keys.number("expert_weights_scale").value_or(1.0));
  config.set("scoring_func", sigmoid ? "sigmoid" : "softmax");
  config.set("topk_group", chosen_groups);
  config.set("topk_method", sigmoid ? "noaux_tc" : groups > 1 ? "group_limited_greedy" : "greedy");
  config.set("v_head_dim", length("attention.value_length"));
  if (keys.text("rope.scaling.type").value_or("none") == "none") return;
  Json rope = gguf_yarn(keys);
  if (const auto log = keys.number("rope.scaling.yarn_log_multiplier")) {
    // A tenth of mscale_all_dim as float32; the published models have the same number for both.
    const double mscale = std::round(*log * 1e7) / 1e6;
    rope.set("mscale", mscale);
    rope.set("mscale_all_dim", mscale);
  }
  config.set("rope_scaling", std::move(rope));
}

// That the ends of yarn's ramp are not rounded is not in the file; the published models have it so.
void set_gpt_oss(const GgufKeys& keys, const GgufHeads& heads, Json& config) {
  const int64_t chosen = keys.required_size("expert_used_count");
  set_layer_types(
      keys, [](int64_t layer) { return layer % 2 == 1; }, config);
  Json rope = gguf_yarn(keys);
  rope.set("truncate", false);
  config.set("attention_bias", true);
  config.set("experts_per_token", chosen);
  config.set("head_dim", heads.dim);
  config.set("intermediate_size", keys.required_size("expert_feed_forward_length"));
  config.set("num_experts_per_tok", chosen);
  config.set("num_local_experts", keys.required_size("expert_count"));
  config.set("rope_scaling", std::move(rope));
  config.set("sliding_window", keys.required_size("attention.sliding_window"));
  config.set("swiglu_limit", 7.0);
}

}  // namespace

const std::vector<GgufArchitecture>& gguf_architectures() {
  static const std::vector<GgufArchitecture> all = {
      {.name = "llama",
       .hf_classes = {"LlamaForCausalLM"},
       .model_type = "llama",
       .tensors = {kPermutedAttention, kQueryKeyNorms, kMlpNorm, kMlp},
       .read_heads = read_heads,
       .set_config = set_llama},
      {.name = "qwen2",
       .hf_classes = {"Qwen2ForCausalLM"},
       .model_type = "qwen2",
       .tensors = {kAttention, kMlpNorm, kMlp},
       .read_heads = read_heads},
      {.name = "qwen3",
       .hf_classes = {"Qwen3ForCausalLM"},
       .model_type = "qwen3",
       .tensors = {kAttention, kQueryKeyNorms, kMlpNorm, kMlp},
       .read_heads = read_heads,
       .set_config = set_head_dim},
      {.name = "qwen3moe",
       .hf_classes = {"Qwen3MoeForCausalLM"},
       .model_type = "qwen3_moe",
       .tensors = {kAttention, kQueryKeyNorms, kMlpNorm, kExpertLayers},
       .may_have = {"expert_count"},
       .read_heads = read_heads,
       .set_config = set_qwen3_moe},
      {.name = "olmoe",
       .hf_classes = {"OlmoeForCausalLM"},
       .model_type = "olmoe",
       .tensors = {kAttention, kQueryKeyNorms, kMlpNorm, kExpertLayers},
       .may_have = {"expert_count"},
       .read_heads = read_heads,
       .set_config = set_olmoe},
      {.name = "gemma",
       .hf_classes = {"GemmaForCausalLM"},
       .model_type = "gemma",
       .tensors = {kAttention, kMlpNorm, kMlp},
       .norm_offset = 1,
       .read_heads = read_heads,
       .set_config = set_gemma},
      {.name = "gemma2",
       .hf_classes = {"Gemma2ForCausalLM"},
       .model_type = "gemma2",
       .tensors = {kAttention, kFourNorms, kMlp},
       .norm_offset = 1,
       .may_have = {"attn_logit_softcapping", "final_logit_softcapping"},
       .read_heads = read_heads,
       .set_config = set_gemma2},
      {.name = "gemma3",
       .hf_classes = {"Gemma3ForCausalLM"},
       .model_type = "gemma3_text",
       .tensors = {kAttention, kQueryKeyNorms, kFourNorms, kMlp},
       .norm_offset = 1,
       .read_heads = read_heads,
       .set_config = set_gemma3},
      {.name = "deepseek2",
       .hf_classes = {"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"},
       .model_type = "deepseek_v2",
       .tensors = {kLatentAttention, kMlpNorm, kMlp, kExpertLayers, kSharedExperts},
       .may_have = {"expert_count", "expert_shared_count", "expert_group_count", "expert_weights_scale",
                    "expert_gating_func"},
       .yarn = true,
       .read_heads = read_latent_heads,
       .set_config = set_deepseek},
      {.name = "gpt-oss",
       .hf_classes = {"GptOssForCausalLM"},
       .model_type = "gpt_oss",
       .tensors = {kAttention, kFusedExperts},
       .may_have = {"expert_count"},
       .yarn = true,
       .read_heads = read_heads,
       .set_config = set_gpt_oss},
  };
  return all;
}

const GgufArchitecture& gguf_architecture(const formats::GgufFile& file) {
  const std::optional<std::string> found = file.text("general.architecture");
  if (!found) fail_gguf(file, "metadata key general.architecture is missing");
  std::string names;
  for (const GgufArchitecture& known : gguf_architectures()) {
    if (known.name == *found) return known;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  fail_gguf(file, "the model's architecture is {}; GGUF files can be read of {}", *found, names);
}

}  // namespace viaduct::models
