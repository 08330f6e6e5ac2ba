#include "tests/unit/bridge/rule_faults.h"

#include <functional>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

using layout::Expr;
using models::RuleInput;
using models::WeightTable;

namespace {

const std::string kLayer = "decoder.layers.*.", kHf = "model.layers.*.";
const std::string kQkv = kLayer + "self_attention.linear_qkv.", kAttn = kHf + "self_attn.";
const std::string kProj = kLayer + "self_attention.linear_proj.weight", kOut = kAttn + "o_proj.weight";
const std::string kFc1 = kLayer + "mlp.linear_fc1.weight", kFc2 = kLayer + "mlp.linear_fc2.weight";
const std::string kGate = kHf + "mlp.gate_proj.weight", kUp = kHf + "mlp.up_proj.weight";
const std::string kDown = kHf + "mlp.down_proj.weight";
const std::string kEmbedding = "embedding.word_embeddings.weight", kTokens = "model.embed_tokens.weight";
const std::string kExpertFc1 = kLayer + "mlp.experts.linear_fc1.weight*";
const std::string kExpertFc2 = kLayer + "mlp.experts.linear_fc2.weight*";
const std::string kRouter = kLayer + "mlp.router.weight";

using Body = Expr (*)(const RuleInput&);

std::vector<std::string> qkv_names(const char* part) {
  return {kAttn + "q_proj." + part, kAttn + "k_proj." + part, kAttn + "v_proj." + part};
}

// What the usual rules make of tensors of these names.
Expr usual(const RuleInput& in, const std::vector<std::string>& names) {
  const RuleInput other{in.arch, in.parameter, names};
  if (names.size() == 1) return models::same("", "").make(other);
  if (names.size() == 2) return models::gate_and_up("", "", "").make(other);
  return models::query_key_value("", "", "", "").make(other);
}

// The names with the number behind `axis` ("layers", "experts") replaced.
std::vector<std::string> renumbered(const RuleInput& in, const std::string& axis, int64_t number) {
  std::vector<std::string> names = in.names;
  for (std::string& name : names) {
    const size_t begin = name.find("." + axis + ".");
    VIADUCT_CHECK(begin != std::string::npos, "{}", name);
    const size_t digits = begin + axis.size() + 2;
    name.replace(digits, name.find('.', digits) - digits, std::to_string(number));
  }
  return names;
}

void replace_bodies(WeightTable& table, const std::string& of, Body body) {
  const std::vector<models::WeightRule> rules = table.rules();
  for (models::WeightRule rule : rules) {
    if (rule.megatron.find(of) == std::string::npos) continue;
    rule.make = body;
    table.add(rule);
  }
}

// Query, key and value with their heads apart: [heads, head_dim, hidden].
struct Heads {
  explicit Heads(const RuleInput& in) : spec(in.layer().attention) {
    const int64_t sizes[] = {spec.num_heads, spec.num_query_groups, spec.num_query_groups};
    for (int i = 0; i < 3; ++i) {
      Shape rows = in.parameter.shape;
      rows[0] = sizes[i] * spec.head_dim;
      part.push_back(Expr::input(in.names[static_cast<size_t>(i)], rows));
    }
  }
  Expr q(int64_t head) const { return part[0].slice(0, head * spec.head_dim, spec.head_dim); }
  Expr k(int64_t head) const { return part[1].slice(0, head * spec.head_dim, spec.head_dim); }
  Expr v(int64_t head) const { return part[2].slice(0, head * spec.head_dim, spec.head_dim); }
  // The groups as Megatron has them, with each index changed by a function of (head or group, their number).
  template <class Q, class K>
  Expr interleaved(Q query_head, K key_head) const {
    const int64_t per_group = spec.num_heads / spec.num_query_groups;
    std::vector<Expr> rows;
    for (int64_t g = 0; g < spec.num_query_groups; ++g) {
      for (int64_t i = 0; i < per_group; ++i) rows.push_back(q(query_head(g, i)));
      rows.push_back(k(key_head(g)));
      rows.push_back(v(key_head(g)));
    }
    return Expr::concat(0, rows);
  }
  const models::AttentionSpec& spec;
  std::vector<Expr> part;
};

Expr rotated(const Expr& whole, int axis, int64_t by) {
  return Expr::concat(axis, {whole.slice(axis, by, whole.shape()[axis] - by), whole.slice(axis, 0, by)});
}

Expr reversed(const Expr& whole) {
  std::vector<Expr> rows;
  for (int64_t i = whole.shape()[0]; i-- > 0;) rows.push_back(whole.slice(0, i, 1));
  return Expr::concat(0, rows);
}

Expr input(const RuleInput& in) { return Expr::input(in.names[0], in.parameter.shape); }

std::vector<Expr> halves(const RuleInput& in) {
  Shape half = in.parameter.shape;
  half[0] /= 2;
  return {Expr::input(in.names[0], half), Expr::input(in.names[1], half)};
}

void qkv_body(WeightTable& t, Body body) { t.add({kQkv + "weight", qkv_names("weight"), body}); }

// ---- attention ----

Expr heads_reversed_in_groups(const RuleInput& in) {
  const Heads heads(in);
  const int64_t n = heads.spec.num_heads / heads.spec.num_query_groups;
  return heads.interleaved([n](int64_t g, int64_t i) { return g * n + n - 1 - i; }, [](int64_t g) { return g; });
}
Expr query_groups_reversed(const RuleInput& in) {
  const Heads heads(in);
  const int64_t groups = heads.spec.num_query_groups, n = heads.spec.num_heads / groups;
  return heads.interleaved([=](int64_t g, int64_t i) { return (groups - 1 - g) * n + i; },
                           [](int64_t g) { return g; });
}
// Head i of group g taken for head g of group i, as a reshape to [heads in a group, groups] would.
Expr query_heads_by_turns(const RuleInput& in) {
  const Heads heads(in);
  const int64_t groups = heads.spec.num_query_groups;
  return heads.interleaved([=](int64_t g, int64_t i) { return i * groups + g; }, [](int64_t g) { return g; });
}
Expr key_groups_shifted(const RuleInput& in) {
  const Heads heads(in);
  const int64_t groups = heads.spec.num_query_groups, n = heads.spec.num_heads / groups;
  return heads.interleaved([=](int64_t g, int64_t i) { return g * n + i; },
                           [=](int64_t g) { return (g + 1) % groups; });
}
Expr query_head_doubled(const RuleInput& in) {
  const Heads heads(in);
  const int64_t n = heads.spec.num_heads / heads.spec.num_query_groups;
  return heads.interleaved([=](int64_t g, int64_t i) { return g == 0 ? 0 : g * n + i; },
                           [](int64_t g) { return g; });
}
Expr all_key_heads_the_first(const RuleInput& in) {
  const Heads heads(in);
  const int64_t n = heads.spec.num_heads / heads.spec.num_query_groups;
  return heads.interleaved([=](int64_t g, int64_t i) { return g * n + i; }, [](int64_t) { return int64_t{0}; });
}
// The rows of each head as GGUF files have them: the two halves by turns.
Expr query_rows_for_other_rotation(const RuleInput& in) {
  const Heads heads(in);
  const int64_t half = heads.spec.head_dim / 2;
  std::vector<Expr> rows;
  for (int64_t h = 0; h < heads.spec.num_heads; ++h)
    rows.push_back(Expr::interleave(0, {heads.q(h).slice(0, 0, half), heads.q(h).slice(0, half, half)}));
  return interleave_query_groups(Expr::concat(0, rows), heads.part[1], heads.part[2], heads.spec.num_query_groups);
}

const std::vector<RuleFault> kAttentionFaults = {
    {"q and k swapped", "llama2",
     [](WeightTable& t) {
       t.add(models::query_key_value(kQkv + "weight", kAttn + "k_proj.weight", kAttn + "q_proj.weight",
                                     kAttn + "v_proj.weight"));
     }},
    {"q and k of different sizes swapped", "mistral",
     [](WeightTable& t) {
       t.add(models::query_key_value(kQkv + "weight", kAttn + "k_proj.weight", kAttn + "q_proj.weight",
                                     kAttn + "v_proj.weight"));
     }},
    {"k and v swapped", "llama",
     [](WeightTable& t) {
       t.add(models::query_key_value(kQkv + "weight", kAttn + "q_proj.weight", kAttn + "v_proj.weight",
                                     kAttn + "k_proj.weight"));
     }},
    {"q, k and v one behind the other", "llama",
     [](WeightTable& t) { qkv_body(t, [](const RuleInput& in) { return Expr::concat(0, Heads(in).part); }); }},
    {"q heads of a group reversed", "llama", [](WeightTable& t) { qkv_body(t, heads_reversed_in_groups); }},
    {"q groups reversed", "gemma2", [](WeightTable& t) { qkv_body(t, query_groups_reversed); }},
    {"q heads dealt to the groups by turns", "qwen3", [](WeightTable& t) { qkv_body(t, query_heads_by_turns); }},
    {"k and v of the next group", "qwen3_moe", [](WeightTable& t) { qkv_body(t, key_groups_shifted); }},
    {"one q head doubled", "llama", [](WeightTable& t) { qkv_body(t, query_head_doubled); }},
    {"the first k head for all groups", "mistral_small",
     [](WeightTable& t) { qkv_body(t, all_key_heads_the_first); }},
    {"q rows permuted for the other rotation", "llama2",
     [](WeightTable& t) { qkv_body(t, query_rows_for_other_rotation); }},
    {"k and v biases swapped", "qwen2",
     [](WeightTable& t) {
       t.add(models::query_key_value(kQkv + "bias", kAttn + "q_proj.bias", kAttn + "v_proj.bias",
                                     kAttn + "k_proj.bias"));
     }},
    {"biases one behind the other", "qwen2",
     [](WeightTable& t) {
       t.add(
           {kQkv + "bias", qkv_names("bias"), [](const RuleInput& in) { return Expr::concat(0, Heads(in).part); }});
     }},
    {"no rule for the biases", "qwen2", [](WeightTable& t) { t.remove(kQkv + "bias"); }},
    {"q_norm and k_norm swapped", "qwen3",
     [](WeightTable& t) {
       t.add(models::same(kLayer + "self_attention.q_layernorm.weight", kAttn + "k_norm.weight"))
           .add(models::same(kLayer + "self_attention.k_layernorm.weight", kAttn + "q_norm.weight"));
     }},
    {"q_norm for k_norm too", "olmoe",
     [](WeightTable& t) {
       t.add(models::same(kLayer + "self_attention.k_layernorm.weight", kAttn + "q_norm.weight"));
     }},
    {"o_proj transposed", "llama2",
     [](WeightTable& t) {
       t.add({kProj, {kOut}, [](const RuleInput& in) { return input(in).transpose({1, 0}); }});
     }},
};

// ---- MLP and experts ----

Expr expert_shifted(const RuleInput& in) {
  const int64_t experts = in.layer().moe->num_experts;
  return usual(in, renumbered(in, "experts", (in.parameter.expert + 1) % experts));
}
Expr expert_reversed(const RuleInput& in) {
  return usual(in, renumbered(in, "experts", in.layer().moe->num_experts - 1 - in.parameter.expert));
}

const std::vector<RuleFault> kMlpFaults = {
    {"gate and up swapped", "llama", [](WeightTable& t) { t.add(models::gate_and_up(kFc1, kUp, kGate)); }},
    {"gate and up row by row", "gemma",
     [](WeightTable& t) {
       t.add({kFc1, {kGate, kUp}, [](const RuleInput& in) { return Expr::interleave(0, halves(in)); }});
     }},
    {"gate twice", "mistral", [](WeightTable& t) { t.add(models::gate_and_up(kFc1, kGate, kGate)); }},
    {"up shifted by one row", "llama",
     [](WeightTable& t) {
       t.add({kFc1, {kGate, kUp}, [](const RuleInput& in) {
                return Expr::concat(0, {halves(in)[0], rotated(halves(in)[1], 0, 1)});
              }});
     }},
    {"rows of down_proj rotated by one", "llama",
     [](WeightTable& t) {
       t.add({kFc2, {kDown}, [](const RuleInput& in) { return rotated(input(in), 0, 1); }});
     }},
    {"columns of down_proj rotated by one", "qwen2",
     [](WeightTable& t) {
       t.add({kFc2, {kDown}, [](const RuleInput& in) { return rotated(input(in), 1, 1); }});
     }},
    {"down_proj read in its other order", "gemma2",
     [](WeightTable& t) {
       t.add({kFc2, {kDown}, [](const RuleInput& in) {
                const Shape& shape = in.parameter.shape;
                return input(in).reshape({shape[1], shape[0]}).transpose({1, 0});
              }});
     }},
    {"experts shifted by one", "qwen3_moe",
     [](WeightTable& t) { replace_bodies(t, "mlp.experts.", expert_shifted); }},
    {"experts reversed", "olmoe", [](WeightTable& t) { replace_bodies(t, "mlp.experts.", expert_reversed); }},
    {"experts of fc2 alone shifted by one", "qwen3_moe",
     [](WeightTable& t) { replace_bodies(t, kExpertFc2, expert_shifted); }},
    {"gate and up of the experts swapped", "qwen3_moe",
     [](WeightTable& t) {
       t.add(models::gate_and_up(kExpertFc1, kHf + "mlp.experts.*.up_proj.weight",
                                 kHf + "mlp.experts.*.gate_proj.weight"));
     }},
    {"router rows reversed", "olmoe",
     [](WeightTable& t) {
       t.add({kRouter, {kHf + "mlp.gate.weight"}, [](const RuleInput& in) { return reversed(input(in)); }});
     }},
    {"router rows rotated by one", "qwen3_moe",
     [](WeightTable& t) {
       t.add({kRouter, {kHf + "mlp.gate.weight"}, [](const RuleInput& in) { return rotated(input(in), 0, 1); }});
     }},
};

// ---- layers, norms, vocabulary ----

Expr layer_shifted(const RuleInput& in) {
  return usual(in, renumbered(in, "layers", (in.parameter.layer + 1) % in.arch.num_layers()));
}
Expr outer_layers_swapped(const RuleInput& in) {
  const int64_t last = in.arch.num_layers() - 1, layer = in.parameter.layer;
  return usual(in, renumbered(in, "layers", layer == 0 ? last : layer == last ? 0 : layer));
}
// Row 0 is lost and the last row is zero: what padding at the wrong place makes.
Expr rows_moved_up(const RuleInput& in) {
  const int64_t rows = in.parameter.shape[0];
  return input(in).slice(0, 1, rows - 1).pad(0, rows);
}
Expr last_row_is_padding(const RuleInput& in) {
  const int64_t rows = in.parameter.shape[0];
  return input(in).slice(0, 0, rows - 1).pad(0, rows);
}

void swap_norms(WeightTable& t, const std::string& a, const std::string& b) {
  std::string of_a, of_b;
  for (const models::WeightRule& rule : t.rules()) {
    if (rule.megatron == a) of_a = rule.hf[0];
    if (rule.megatron == b) of_b = rule.hf[0];
  }
  t.add(models::same(a, of_b)).add(models::same(b, of_a));
}

const std::vector<RuleFault> kOtherFaults = {
    {"layers shifted by one", "llama", [](WeightTable& t) { replace_bodies(t, "decoder.layers.", layer_shifted); }},
    {"first and last layer swapped", "gemma2",
     [](WeightTable& t) { replace_bodies(t, "decoder.layers.", outer_layers_swapped); }},
    {"attention of the next layer", "qwen3",
     [](WeightTable& t) { replace_bodies(t, "self_attention.", layer_shifted); }},
    {"experts of the other layer", "olmoe",
     [](WeightTable& t) { replace_bodies(t, "mlp.experts.", layer_shifted); }},
    {"input and post-attention norms swapped", "llama",
     [](WeightTable& t) {
       swap_norms(t, kQkv + "layer_norm_weight", kLayer + "mlp.linear_fc1.layer_norm_weight");
     }},
    {"norms behind attention and MLP swapped", "gemma2",
     [](WeightTable& t) {
       swap_norms(t, kLayer + "self_attention.linear_proj.post_layernorm.weight",
                  kLayer + "mlp.linear_fc2.post_layernorm.weight");
     }},
    {"post-attention norm taken for the one before the MLP", "gemma2",
     [](WeightTable& t) {
       swap_norms(t, kLayer + "self_attention.linear_proj.post_layernorm.weight",
                  kLayer + "mlp.linear_fc1.layer_norm_weight");
     }},
    {"final norm and a layer's norm mixed up", "llama2",
     [](WeightTable& t) {
       t.add(models::same("decoder.final_layernorm.weight", "model.layers.0.input_layernorm.weight"));
     }},
    {"embedding and output layer swapped", "llama2",
     [](WeightTable& t) {
       t.add(models::same(kEmbedding, "lm_head.weight")).add(models::same("output_layer.weight", kTokens));
     }},
    {"output layer made of the embedding", "qwen2",
     [](WeightTable& t) { t.add(models::same("output_layer.weight", kTokens)); }},
    {"a wrong name", "mistral",
     [](WeightTable& t) { t.add(models::same("output_layer.weight", "model.lm_head.weight")); }},
    {"vocabulary rotated by one", "gemma",
     [](WeightTable& t) {
       t.add({kEmbedding, {kTokens}, [](const RuleInput& in) { return rotated(input(in), 0, 1); }});
     }},
    {"first row of the vocabulary lost, one of padding behind", "llama",
     [](WeightTable& t) {
       t.add({kEmbedding, {kTokens}, rows_moved_up});
     }},
    {"last row of the vocabulary taken for padding", "llama",
     [](WeightTable& t) {
       t.add({kEmbedding, {kTokens}, last_row_is_padding});
     }},
    {"one row of the vocabulary too few", "qwen3",
     [](WeightTable& t) {
       t.add({kEmbedding, {kTokens}, [](const RuleInput& in) {
                return input(in).slice(0, 0, in.parameter.shape[0] - 1);
              }});
     }},
    {"padding written by the rule", "gemma2",
     [](WeightTable& t) {
       t.add({kEmbedding, {kTokens}, [](const RuleInput& in) {
                return input(in).pad(0, in.parameter.shape[0] + 6);
              }});
     }},
    {"the vocabulary's size after padding taken for the tensor's", "gemma",
     [](WeightTable& t) {
       t.add({kEmbedding, {kTokens}, [](const RuleInput& in) {
                Shape padded = in.parameter.shape;
                padded[0] += 6;
                return Expr::input(in.names[0], padded).slice(0, 0, in.parameter.shape[0]);
              }});
     }},
};

}  // namespace

const std::vector<RuleFault>& rule_faults() {
  static const std::vector<RuleFault> all = [] {
    std::vector<RuleFault> result;
    for (const auto* part : {&kAttentionFaults, &kMlpFaults, &kOtherFaults})
      result.insert(result.end(), part->begin(), part->end());
    return result;
  }();
  return all;
}

}  // namespace viaduct::bridge
