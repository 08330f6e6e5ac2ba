// Weight rules: which Hugging Face tensors a Megatron parameter is made of, as rows of a table. Only the direction
// Hugging Face -> Megatron is written; the other is derived from the expression.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "viaduct/layout/expr.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/parameters.h"

namespace viaduct::models {

/// What a rule's body is given: the parameter and the names of its Hugging Face tensors, numbers filled in.
struct RuleInput {
  const ArchSpec& arch;
  const Parameter& parameter;
  const std::vector<std::string>& names;

  /// The layer the parameter belongs to.
  const LayerSpec& layer() const { return arch.layers.at(static_cast<size_t>(parameter.layer)); }
};

/// In both patterns "*" stands for the layer's number, then the expert's; a Hugging Face pattern may have none of
/// them. `make` may look at the layer's LayerSpec, not at its number: equal layers are evaluated once.
struct WeightRule {
  std::string megatron;
  std::vector<std::string> hf;
  layout::Expr (*make)(const RuleInput&);
};

/// The tensor itself, under another name.
WeightRule same(std::string megatron, std::string hf);
/// Query, key and value rows interleaved by query group; weights and biases.
WeightRule query_key_value(std::string megatron, std::string q, std::string k, std::string v);
/// The rows of gate, then the rows of up.
WeightRule gate_and_up(std::string megatron, std::string gate, std::string up);

/// A tensor that a Hugging Face checkpoint may hold although it follows from others. It has no Megatron parameter.
struct DerivedTensor {
  enum class Kind {
    kCopy,         // must have the bits of tensor `of`
    kInverseFreq,  // rotary_emb.inv_freq: follows from the configuration; kept beside the checkpoint
  };
  std::string hf;  // pattern; "*" is any number
  Kind kind = Kind::kCopy;
  std::string of;
};

/// A family's table. Rows are looked up by pattern; the last row added for a pattern replaces earlier ones.
class WeightTable {
 public:
  WeightTable& add(WeightRule rule);
  WeightTable& add(const std::vector<WeightRule>& rules);
  WeightTable& remove(std::string_view megatron);
  WeightTable& derived(DerivedTensor tensor);

  /// The row for `parameter` with the numbers filled in. InternalError when there is none: a family's table must
  /// cover every parameter of its ArchSpec.
  struct Match {
    const WeightRule* rule;
    std::vector<std::string> names;
  };
  Match match(const ArchSpec& arch, const Parameter& parameter) const;
  /// How `parameter` is made of Hugging Face tensors.
  layout::Expr expression(const ArchSpec& arch, const Parameter& parameter) const;
  /// Whether `hf_name` is a derived tensor; `of` is filled in.
  const DerivedTensor* find_derived(std::string_view hf_name) const;
  const std::vector<WeightRule>& rules() const { return rules_; }

 private:
  std::vector<WeightRule> rules_;
  std::unordered_map<std::string, size_t> by_pattern_;
  std::vector<DerivedTensor> derived_;
};

/// The pattern of a parameter's name: "decoder.layers.*.mlp.experts.linear_fc1.weight*".
std::string name_pattern(const Parameter& parameter);

/// The rows that all decoders of Llama's shape share (embedding, output layer, norms, attention, dense MLP), with
/// "model.layers.*." as the layer's prefix. Bias and query-key-norm rows are included; they are used where the
/// ArchSpec has such parameters.
std::vector<WeightRule> decoder_rules();
/// The rows of mixture-of-experts layers whose experts are stored one by one below `experts` ("mlp.experts.*."),
/// with the router at `router` ("mlp.gate.weight").
std::vector<WeightRule> expert_rules(std::string_view router = "mlp.gate.weight",
                                     std::string_view experts = "mlp.experts.*.");

}  // namespace viaduct::models
