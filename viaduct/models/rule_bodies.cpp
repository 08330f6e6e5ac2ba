// The rules themselves: how a parameter is made of Hugging Face tensors.
#include "viaduct/core/error.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

using layout::Expr;

namespace {

// Part of the parameter's shape with another number of rows.
Shape with_rows(const Shape& shape, int64_t rows) {
  Shape result = shape;
  result[0] = rows;
  return result;
}

Expr make_same(const RuleInput& in) { return Expr::input(in.names[0], in.parameter.shape); }

Expr make_transposed(const RuleInput& in) {
  const Shape& shape = in.parameter.shape;
  return Expr::input(in.names[0], {shape[1], shape[0]}).transpose({1, 0});
}

// `rows` [heads * parts * head_dim, ...] with each group's parts one behind the other: [groups, parts * per group *
// head_dim, ...].
Expr group_parts(const Expr& rows, int64_t groups, int64_t heads, int64_t parts, int64_t head_dim) {
  const int64_t width = num_elements(rows.shape()) / (heads * parts * head_dim);
  return rows.reshape({groups, heads / groups, parts, head_dim, width})
      .transpose({0, 2, 1, 3, 4})
      .reshape({groups, parts * heads / groups * head_dim, width});
}

Expr make_query_key_value(const RuleInput& in) {
  const AttentionSpec& attention = in.layer().attention;
  const int64_t parts = attention.output_gate ? 2 : 1;
  const int64_t groups = attention.num_query_groups, head_dim = attention.head_dim;
  const Expr q = Expr::input(in.names[0], with_rows(in.parameter.shape, attention.num_heads * parts * head_dim));
  const Shape key = with_rows(in.parameter.shape, groups * head_dim);
  const Expr k = Expr::input(in.names[1], key), v = Expr::input(in.names[2], key);
  if (!attention.output_gate) return interleave_query_groups(q, k, v, groups);
  const Expr all =
      Expr::concat(1, {group_parts(q, groups, attention.num_heads, parts, head_dim),
                       group_parts(k, groups, groups, 1, head_dim), group_parts(v, groups, groups, 1, head_dim)});
  return all.reshape(in.parameter.shape);
}

Expr make_gate_and_up(const RuleInput& in) {
  const Shape half = with_rows(in.parameter.shape, in.parameter.shape[0] / 2);
  return Expr::concat(0, {Expr::input(in.names[0], half), Expr::input(in.names[1], half)});
}

Expr make_vision_query_key_value(const RuleInput& in) {
  const int64_t heads = in.arch.vision.value().num_heads, rows = in.parameter.shape[0] / 3;
  const Expr all = Expr::input(in.names[0], in.parameter.shape);
  return interleave_query_groups(all.slice(0, 0, rows), all.slice(0, rows, rows), all.slice(0, 2 * rows, rows),
                                 heads);
}

// The parameter's expert out of a tensor of all of them, as [out, in] or [out].
Expr expert_of(const RuleInput& in, ExpertAxes axes) {
  const int64_t experts = in.layer().moe.value().num_experts;
  const Shape& shape = in.parameter.shape;
  if (shape.rank() == 1)
    return Expr::input(in.names[0], {experts, shape[0]}).slice(0, in.parameter.expert, 1).reshape(shape);
  if (axes == ExpertAxes::kOutIn)
    return Expr::input(in.names[0], {experts, shape[0], shape[1]}).slice(0, in.parameter.expert, 1).reshape(shape);
  return Expr::input(in.names[0], {experts, shape[1], shape[0]})
      .slice(0, in.parameter.expert, 1)
      .reshape({shape[1], shape[0]})
      .transpose({1, 0});
}

template <ExpertAxes kAxes>
Expr make_fused_expert(const RuleInput& in) {
  return expert_of(in, kAxes);
}

template <ExpertAxes kAxes, GateAndUp kOrder>
Expr make_fused_gate_and_up(const RuleInput& in) {
  const Expr rows = expert_of(in, kAxes);
  if (kOrder == GateAndUp::kHalves) return rows;
  const int64_t half = in.parameter.shape[0] / 2;
  return Expr::concat(0, {rows.slice(0, 0, half, 2), rows.slice(0, 1, half, 2)});
}

}  // namespace

WeightRule same(std::string megatron, std::string hf) { return {std::move(megatron), {std::move(hf)}, make_same}; }

WeightRule transposed(std::string megatron, std::string hf) {
  return {std::move(megatron), {std::move(hf)}, make_transposed};
}

WeightRule query_key_value(std::string megatron, std::string q, std::string k, std::string v) {
  return {std::move(megatron), {std::move(q), std::move(k), std::move(v)}, make_query_key_value};
}

WeightRule gate_and_up(std::string megatron, std::string gate, std::string up) {
  return {std::move(megatron), {std::move(gate), std::move(up)}, make_gate_and_up};
}

WeightRule vision_query_key_value(std::string megatron, std::string qkv) {
  return {std::move(megatron), {std::move(qkv)}, make_vision_query_key_value};
}

WeightRule fused_gate_and_up(std::string megatron, std::string hf, ExpertAxes axes, GateAndUp order) {
  using enum ExpertAxes;
  using enum GateAndUp;
  const bool out_in = axes == kOutIn, halves = order == kHalves;
  auto* make = out_in
                   ? (halves ? make_fused_gate_and_up<kOutIn, kHalves> : make_fused_gate_and_up<kOutIn, kByTurns>)
                   : (halves ? make_fused_gate_and_up<kInOut, kHalves> : make_fused_gate_and_up<kInOut, kByTurns>);
  return {.megatron = std::move(megatron), .hf = {std::move(hf)}, .make = make, .by_expert = true};
}

WeightRule fused_expert(std::string megatron, std::string hf, ExpertAxes axes) {
  auto* make =
      axes == ExpertAxes::kOutIn ? make_fused_expert<ExpertAxes::kOutIn> : make_fused_expert<ExpertAxes::kInOut>;
  return {.megatron = std::move(megatron), .hf = {std::move(hf)}, .make = make, .by_expert = true};
}

std::vector<WeightRule> decoder_rules() {
  const std::string mega = "decoder.layers.*.", hf = "model.layers.*.";
  const std::string qkv = mega + "self_attention.linear_qkv.", attn = hf + "self_attn.";
  return {
      same("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
      same("output_layer.weight", "lm_head.weight"),
      same("decoder.final_layernorm.weight", "model.norm.weight"),
      same(qkv + "layer_norm_weight", hf + "input_layernorm.weight"),
      query_key_value(qkv + "weight", attn + "q_proj.weight", attn + "k_proj.weight", attn + "v_proj.weight"),
      query_key_value(qkv + "bias", attn + "q_proj.bias", attn + "k_proj.bias", attn + "v_proj.bias"),
      same(mega + "self_attention.q_layernorm.weight", attn + "q_norm.weight"),
      same(mega + "self_attention.k_layernorm.weight", attn + "k_norm.weight"),
      same(mega + "self_attention.linear_proj.weight", attn + "o_proj.weight"),
      same(mega + "self_attention.linear_proj.bias", attn + "o_proj.bias"),
      same(mega + "mlp.linear_fc1.layer_norm_weight", hf + "post_attention_layernorm.weight"),
      gate_and_up(mega + "mlp.linear_fc1.weight", hf + "mlp.gate_proj.weight", hf + "mlp.up_proj.weight"),
      gate_and_up(mega + "mlp.linear_fc1.bias", hf + "mlp.gate_proj.bias", hf + "mlp.up_proj.bias"),
      same(mega + "mlp.linear_fc2.weight", hf + "mlp.down_proj.weight"),
      same(mega + "mlp.linear_fc2.bias", hf + "mlp.down_proj.bias"),
  };
}

std::vector<WeightRule> latent_attention_rules() {
  const std::string mega = "decoder.layers.*.", attn = "model.layers.*.self_attn.";
  const std::string self = mega + "self_attention.";
  return {
      same(mega + "input_layernorm.weight", "model.layers.*.input_layernorm.weight"),
      same(self + "linear_proj.weight", attn + "o_proj.weight"),
      same(self + "linear_proj.bias", attn + "o_proj.bias"),
      same(self + "linear_q_proj.weight", attn + "q_proj.weight"),
      same(self + "linear_q_down_proj.weight", attn + "q_a_proj.weight"),
      same(self + "linear_q_up_proj.layer_norm_weight", attn + "q_a_layernorm.weight"),
      same(self + "linear_q_up_proj.weight", attn + "q_b_proj.weight"),
      same(self + "linear_kv_down_proj.weight", attn + "kv_a_proj_with_mqa.weight"),
      same(self + "linear_kv_up_proj.layer_norm_weight", attn + "kv_a_layernorm.weight"),
      same(self + "linear_kv_up_proj.weight", attn + "kv_b_proj.weight"),
  };
}

std::vector<WeightRule> expert_rules(std::string_view router, std::string_view experts) {
  const std::string mega = "decoder.layers.*.", hf = "model.layers.*.";
  const std::string each = hf + std::string(experts);
  return {
      same(mega + "pre_mlp_layernorm.weight", hf + "post_attention_layernorm.weight"),
      same(mega + "mlp.router.weight", hf + std::string(router)),
      gate_and_up(mega + "mlp.experts.linear_fc1.weight*", each + "gate_proj.weight", each + "up_proj.weight"),
      same(mega + "mlp.experts.linear_fc2.weight*", each + "down_proj.weight"),
  };
}

std::vector<WeightRule> shared_expert_rules(std::string_view shared) {
  const std::string mega = "decoder.layers.*.mlp.", hf = "model.layers.*.";
  const std::string each = hf + std::string(shared);
  return {
      same(mega + "router.expert_bias", hf + "mlp.gate.e_score_correction_bias"),
      gate_and_up(mega + "shared_experts.linear_fc1.weight", each + "gate_proj.weight", each + "up_proj.weight"),
      same(mega + "shared_experts.linear_fc2.weight", each + "down_proj.weight"),
  };
}

std::vector<WeightRule> mtp_rules(const std::vector<WeightRule>& layer_rules) {
  const std::string layer = "decoder.layers.*.", mega = "mtp.layers.*.", hf = "model.layers.*.";
  std::vector<WeightRule> rules = {
      same(mega + "enorm.weight", hf + "enorm.weight"),
      same(mega + "hnorm.weight", hf + "hnorm.weight"),
      same(mega + "eh_proj.weight", hf + "eh_proj.weight"),
      same(mega + "final_layernorm.weight", hf + "shared_head.norm.weight"),
  };
  for (WeightRule rule : layer_rules) {
    if (!rule.megatron.starts_with(layer)) continue;
    rule.megatron.replace(0, layer.size(), mega + "mtp_model_layer.");
    rules.push_back(std::move(rule));
  }
  for (WeightRule& rule : rules) rule.numbers = after_layers;
  return rules;
}

std::vector<WeightRule> inside(const std::vector<WeightRule>& rules, const std::string& megatron_prefix,
                               const std::string& from, const std::string& to) {
  std::vector<WeightRule> result = rules;
  for (WeightRule& rule : result) {
    rule.megatron = megatron_prefix + rule.megatron;
    for (std::string& name : rule.hf)
      if (name.starts_with(from)) name.replace(0, from.size(), to);
  }
  return result;
}

}  // namespace viaduct::models
