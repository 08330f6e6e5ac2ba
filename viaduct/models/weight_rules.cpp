#include "viaduct/models/weight_rules.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

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

Expr make_query_key_value(const RuleInput& in) {
  const AttentionSpec& attention = in.layer().attention;
  const Shape query = with_rows(in.parameter.shape, attention.num_heads * attention.head_dim);
  const Shape key = with_rows(in.parameter.shape, attention.num_query_groups * attention.head_dim);
  return interleave_query_groups(Expr::input(in.names[0], query), Expr::input(in.names[1], key),
                                 Expr::input(in.names[2], key), attention.num_query_groups);
}

Expr make_gate_and_up(const RuleInput& in) {
  const Shape half = with_rows(in.parameter.shape, in.parameter.shape[0] / 2);
  return Expr::concat(0, {Expr::input(in.names[0], half), Expr::input(in.names[1], half)});
}

// Does `text` match `pattern`, whose "*" are runs of digits?
bool matches(std::string_view pattern, std::string_view text) {
  size_t i = 0, j = 0;
  while (i < pattern.size()) {
    if (pattern[i] == '*') {
      const size_t start = j;
      while (j < text.size() && text[j] >= '0' && text[j] <= '9') ++j;
      if (j == start) return false;
      ++i;
    } else {
      if (j >= text.size() || text[j] != pattern[i]) return false;
      ++i;
      ++j;
    }
  }
  return j == text.size();
}

}  // namespace

WeightRule same(std::string megatron, std::string hf) { return {std::move(megatron), {std::move(hf)}, make_same}; }

WeightRule query_key_value(std::string megatron, std::string q, std::string k, std::string v) {
  return {std::move(megatron), {std::move(q), std::move(k), std::move(v)}, make_query_key_value};
}

WeightRule gate_and_up(std::string megatron, std::string gate, std::string up) {
  return {std::move(megatron), {std::move(gate), std::move(up)}, make_gate_and_up};
}

WeightTable& WeightTable::add(WeightRule rule) {
  const auto [it, fresh] = by_pattern_.try_emplace(rule.megatron, rules_.size());
  if (fresh) {
    rules_.push_back(std::move(rule));
  } else {
    rules_[it->second] = std::move(rule);
  }
  return *this;
}

WeightTable& WeightTable::add(const std::vector<WeightRule>& rules) {
  for (const WeightRule& rule : rules) add(rule);
  return *this;
}

WeightTable& WeightTable::remove(std::string_view megatron) {
  std::vector<WeightRule> kept;
  for (WeightRule& rule : rules_)
    if (rule.megatron != megatron) kept.push_back(std::move(rule));
  rules_.clear();
  by_pattern_.clear();
  return add(kept);
}

WeightTable& WeightTable::derived(DerivedTensor tensor) {
  derived_.push_back(std::move(tensor));
  return *this;
}

std::string name_pattern(const Parameter& parameter) {
  std::string pattern = parameter.name;
  if (parameter.expert >= 0) {
    const size_t digits = std::to_string(parameter.expert).size();
    pattern.replace(pattern.size() - digits, digits, "*");
  }
  if (parameter.layer >= 0) {
    const std::string number = fmt::format(".{}.", parameter.layer);
    pattern.replace(pattern.find(number), number.size(), ".*.");
  }
  return pattern;
}

WeightTable::Match WeightTable::match(const ArchSpec& arch, const Parameter& parameter) const {
  const auto it = by_pattern_.find(name_pattern(parameter));
  VIADUCT_CHECK(it != by_pattern_.end(), "the {} family has no rule for {}", arch.family, parameter.name);
  const WeightRule& rule = rules_[it->second];
  std::vector<int64_t> numbers;
  if (parameter.layer >= 0) numbers.push_back(parameter.layer);
  if (parameter.expert >= 0) numbers.push_back(parameter.expert);
  std::vector<std::string> names;
  names.reserve(rule.hf.size());
  for (const std::string& pattern : rule.hf) {
    const auto stars = static_cast<size_t>(std::count(pattern.begin(), pattern.end(), '*'));
    names.push_back(fill_pattern(pattern, std::span(numbers).first(std::min(stars, numbers.size()))));
  }
  return {&rule, std::move(names)};
}

Expr WeightTable::expression(const ArchSpec& arch, const Parameter& parameter) const {
  const Match found = match(arch, parameter);
  return found.rule->make({arch, parameter, found.names});
}

const DerivedTensor* WeightTable::find_derived(std::string_view hf_name) const {
  for (const DerivedTensor& tensor : derived_)
    if (matches(tensor.hf, hf_name)) return &tensor;
  return nullptr;
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

}  // namespace viaduct::models
