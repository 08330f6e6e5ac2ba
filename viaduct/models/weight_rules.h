// Weight rules: which Hugging Face tensors a Megatron parameter is made of, as rows of a table. Only the direction
// Hugging Face -> Megatron is written; the other is derived from the expression.
#pragma once

#include <span>
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
  const LayerSpec& layer() const { return *parameter.layer_in(arch); }
};

/// Which numbers fill the "*" of the Hugging Face patterns, given those of the parameter's name.
using NumberMap = std::vector<int64_t> (*)(const ArchSpec& arch, std::span<const int64_t> numbers);
/// Layers of multi-token prediction that Hugging Face counts on behind the model's: the first number plus the
/// number of layers.
std::vector<int64_t> after_layers(const ArchSpec& arch, std::span<const int64_t> numbers);

/// In the Megatron pattern "*" stands for each number that is a word of the name, and for the expert's number at
/// its end; in the Hugging Face patterns, in the same order, for the first of them. `make` may look at the layer's
/// LayerSpec, not at its number: equal layers are evaluated once. It may look at the expert's number when
/// `by_expert` says so.
struct WeightRule {
  std::string megatron;
  std::vector<std::string> hf;
  layout::Expr (*make)(const RuleInput&);
  bool by_expert = false;       // several experts are parts of one Hugging Face tensor
  NumberMap numbers = nullptr;  // none: the parameter's own numbers
  float add = 0;                // value step: Megatron's values are Hugging Face's plus this, in the model's type
};

/// The tensor itself, under another name.
WeightRule same(std::string megatron, std::string hf);
/// Rows and columns swapped (the first two axes).
WeightRule transposed(std::string megatron, std::string hf);
/// Query, key and value rows interleaved by query group; weights and biases. With an output gate, each head's gate
/// rows stand behind its query rows in Hugging Face's q, and behind the group's query rows in Megatron.
WeightRule query_key_value(std::string megatron, std::string q, std::string k, std::string v);
/// The rows of gate, then the rows of up.
WeightRule gate_and_up(std::string megatron, std::string gate, std::string up);
/// Query, key and value one behind the other in one tensor of the vision tower, interleaved by head.
WeightRule vision_query_key_value(std::string megatron, std::string qkv);

/// How a tensor of all experts lies: [experts, out, in] or [experts, in, out].
enum class ExpertAxes { kOutIn, kInOut };
/// How gate and up share the out axis: all gate rows first, or by turns.
enum class GateAndUp { kHalves, kByTurns };
/// One expert of a tensor that holds gate and up of all experts; weights and biases ([experts, out]).
WeightRule fused_gate_and_up(std::string megatron, std::string hf, ExpertAxes axes,
                             GateAndUp order = GateAndUp::kHalves);
/// One expert of a tensor that holds all experts; weights and biases.
WeightRule fused_expert(std::string megatron, std::string hf, ExpertAxes axes);

/// A tensor that a Hugging Face checkpoint may hold although it has no Megatron parameter.
struct DerivedTensor {
  /// What its values are, which decides whether files must have them and where they are kept.
  enum class Kind {
    kCopy,         // must have the bits of tensor `of`
    kMtpCopy,      // the same, one in each layer of multi-token prediction; inference engines want it
    kInverseFreq,  // rotary_emb.inv_freq: follows from the configuration; kept beside the checkpoint
    kKept,         // a buffer of its own (image normalisation), kept beside the checkpoint
  };
  std::string hf;  // pattern; "*" is any number
  Kind kind = Kind::kCopy;
  std::string of;

  /// Must it have the bits of another tensor?
  bool is_copy() const { return kind == Kind::kCopy || kind == Kind::kMtpCopy; }
};

/// A family's table. Rows are looked up by pattern; the last row added for a pattern replaces earlier ones.
class WeightTable {
 public:
  /// Adds a row; all rows of a list.
  WeightTable& add(WeightRule rule);
  WeightTable& add(const std::vector<WeightRule>& rules);
  /// Takes the row of this Megatron pattern out, if there is one.
  WeightTable& remove(std::string_view megatron);
  /// Everything below a Megatron prefix that no row names is the tensor of the same name below the other prefix.
  WeightTable& subtree(std::string megatron, std::string hf);
  /// Adds a pattern of tensors that have no Megatron parameter.
  WeightTable& derived(DerivedTensor tensor);
  /// The same table for Hugging Face names that begin with `to` where this one's begin with `from`; the longest
  /// `from` that fits is taken.
  WeightTable renamed(std::span<const std::pair<std::string, std::string>> prefixes) const;
  /// The same.
  WeightTable renamed(std::initializer_list<std::pair<std::string, std::string>> prefixes) const {
    return renamed(std::span(prefixes.begin(), prefixes.size()));
  }

  /// A row and the Hugging Face names of one parameter.
  struct Match {
    const WeightRule* rule;
    std::vector<std::string> names;
  };
  /// The row for `parameter` with the numbers filled in. InternalError when there is none: a family's table must
  /// cover every parameter of its ArchSpec.
  Match match(const ArchSpec& arch, const Parameter& parameter) const;
  /// How `parameter` is made of Hugging Face tensors.
  layout::Expr expression(const ArchSpec& arch, const Parameter& parameter) const;
  /// Whether `hf_name` is a derived tensor; `of` is filled in.
  const DerivedTensor* find_derived(std::string_view hf_name) const;
  /// The copies of kind kMtpCopy that this model has: (copy, original). Files are written with them where nothing
  /// says what the source had.
  std::vector<std::pair<std::string, std::string>> mtp_copies(const ArchSpec& arch) const;
  /// All rows but those of subtrees, in the order of their addition.
  const std::vector<WeightRule>& rules() const { return rules_; }

 private:
  std::vector<WeightRule> rules_;
  std::unordered_map<std::string, size_t> by_pattern_;
  std::vector<WeightRule> subtrees_;  // megatron and hf[0] are prefixes
  std::vector<DerivedTensor> derived_;
};

/// The pattern of a parameter's name: "decoder.layers.*.mlp.experts.linear_fc1.weight*".
std::string name_pattern(const Parameter& parameter);
/// The numbers that name_pattern leaves out, in their order.
std::vector<int64_t> name_numbers(const Parameter& parameter);

/// The rows that all decoders of Llama's shape share (embedding, output layer, norms, attention, dense MLP), with
/// "model.layers.*." as the layer's prefix. Bias and query-key-norm rows are included; they are used where the
/// ArchSpec has such parameters.
std::vector<WeightRule> decoder_rules();
/// The rows of multi-head latent attention, with and without a low-rank query.
std::vector<WeightRule> latent_attention_rules();
/// The rows of mixture-of-experts layers whose experts are stored one by one below `experts` ("mlp.experts.*."),
/// with the router at `router` ("mlp.gate.weight").
std::vector<WeightRule> expert_rules(std::string_view router = "mlp.gate.weight",
                                     std::string_view experts = "mlp.experts.*.");
/// The rows of gated shared experts below `shared` ("mlp.shared_experts."), and of the router's expert bias.
std::vector<WeightRule> shared_expert_rules(std::string_view shared = "mlp.shared_experts.");
/// The rows of multi-token prediction made of those of the layers: for each row below "decoder.layers.*.", one
/// below "mtp.layers.*.mtp_model_layer." whose Hugging Face layer counts on behind the model's; and those of its
/// own norms and projection (enorm, hnorm, eh_proj, shared_head.norm).
std::vector<WeightRule> mtp_rules(const std::vector<WeightRule>& layer_rules);
/// The same rows inside of a larger model: Megatron names get a prefix ("language_model."); Hugging Face names that
/// begin with `from` begin with `to` instead.
std::vector<WeightRule> inside(const std::vector<WeightRule>& rules, const std::string& megatron_prefix,
                               const std::string& from = "", const std::string& to = "");

}  // namespace viaduct::models
