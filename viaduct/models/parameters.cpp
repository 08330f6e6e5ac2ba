#include "viaduct/models/parameters.h"

#include "viaduct/core/error.h"

namespace viaduct::models {

using layout::Split;

std::string Parameter::module() const { return name.substr(0, name.rfind('.')); }

namespace {

// Appends parameters with what is common to the layer they belong to.
class Builder {
 public:
  explicit Builder(const ArchSpec& arch) : arch_(arch) {}

  Parameter& add(std::string name, Shape shape, Split split = Split::replicated(), bool extra_state = true) {
    Parameter& parameter = result_.emplace_back();
    parameter.name = prefix_ + std::move(name);
    parameter.shape = shape;
    parameter.dtype = arch_.dtype;
    parameter.split = std::move(split);
    parameter.place = place_;
    parameter.layer = layer_;
    parameter.has_extra_state = extra_state;
    return parameter;
  }

  /// A norm, or the norm fused into the linear layer that follows it (`name` ends in "layer_norm_").
  void add_norm(const std::string& name, int64_t size) {
    add(name + "weight", {size});
    if (arch_.norm.kind == NormKind::kLayer) add(name + "bias", {size});
  }

  void enter(std::string prefix, Place place, int32_t layer) {
    prefix_ = std::move(prefix);
    place_ = place;
    layer_ = layer;
  }

  void add_attention(const AttentionSpec& attention, bool post_norm);
  void add_dense(const MlpSpec& mlp, bool post_norm);
  void add_experts(const MlpSpec& mlp, const MoeSpec& moe);

  std::vector<Parameter> take() { return std::move(result_); }

 private:
  const ArchSpec& arch_;
  std::vector<Parameter> result_;
  std::string prefix_;
  Place place_ = Place::kFirstStage;
  int32_t layer_ = -1;
};

void Builder::add_attention(const AttentionSpec& attention, bool post_norm) {
  const int64_t hidden = arch_.hidden_size;
  const int64_t query = attention.num_heads * attention.head_dim;
  const int64_t key = attention.num_query_groups * attention.head_dim;
  add("self_attention.linear_proj.weight", {hidden, query}, Split::along(1));
  if (attention.output_bias) add("self_attention.linear_proj.bias", {hidden});
  if (post_norm) add_norm("self_attention.linear_proj.post_layernorm.", hidden);
  add_norm("self_attention.linear_qkv.layer_norm_", hidden);
  add("self_attention.linear_qkv.weight", {query + 2 * key, hidden}, Split::along(0));
  if (attention.qkv_bias) add("self_attention.linear_qkv.bias", {query + 2 * key}, Split::along(0));
  if (attention.qk_norm != QkNorm::kNone) {
    const bool per_head = attention.qk_norm == QkNorm::kPerHead;
    add_norm("self_attention.q_layernorm.", per_head ? attention.head_dim : query);
    add_norm("self_attention.k_layernorm.", per_head ? attention.head_dim : key);
  }
}

// Rows of fc1: a gated MLP has gate and up, each cut among the ranks for itself.
Split fc1_split(const MlpSpec& mlp) {
  if (!mlp.gated) return Split::along(0);
  return Split::along(0, {mlp.ffn_hidden_size, mlp.ffn_hidden_size});
}

void Builder::add_dense(const MlpSpec& mlp, bool post_norm) {
  const int64_t hidden = arch_.hidden_size;
  const int64_t rows = mlp.ffn_hidden_size * (mlp.gated ? 2 : 1);
  add_norm("mlp.linear_fc1.layer_norm_", hidden);
  add("mlp.linear_fc1.weight", {rows, hidden}, fc1_split(mlp));
  if (mlp.bias) add("mlp.linear_fc1.bias", {rows}, fc1_split(mlp));
  add("mlp.linear_fc2.weight", {hidden, mlp.ffn_hidden_size}, Split::along(1));
  if (mlp.bias) add("mlp.linear_fc2.bias", {hidden});
  if (post_norm) add_norm("mlp.linear_fc2.post_layernorm.", hidden);
}

void Builder::add_experts(const MlpSpec& mlp, const MoeSpec& moe) {
  const int64_t hidden = arch_.hidden_size;
  const int64_t rows = mlp.ffn_hidden_size * (mlp.gated ? 2 : 1);
  add_norm("pre_mlp_layernorm.", hidden);
  add("mlp.router.weight", {moe.num_experts, hidden}, Split::replicated(), /*extra_state=*/false);
  for (int64_t e = 0; e < moe.num_experts; ++e)
    add(fmt::format("mlp.experts.linear_fc1.weight{}", e), {rows, hidden}, fc1_split(mlp)).expert =
        static_cast<int32_t>(e);
  for (int64_t e = 0; e < moe.num_experts; ++e)
    add(fmt::format("mlp.experts.linear_fc2.weight{}", e), {hidden, mlp.ffn_hidden_size}, Split::along(1)).expert =
        static_cast<int32_t>(e);
}

}  // namespace

std::vector<Parameter> megatron_parameters(const ArchSpec& arch) {
  arch.validate();
  Builder builder(arch);
  builder.enter("", Place::kFirstStage, -1);
  const Shape vocabulary = {arch.embedding.vocab_size, arch.hidden_size};
  builder.add("embedding.word_embeddings.weight", vocabulary, Split::along(0), false).vocabulary = true;
  for (int32_t i = 0; i < arch.num_layers(); ++i) {
    const LayerSpec& layer = arch.layers[static_cast<size_t>(i)];
    builder.enter(fmt::format("decoder.layers.{}.", i), Place::kLayer, i);
    builder.add_attention(layer.attention, layer.post_attention_norm);
    if (layer.moe) {
      builder.add_experts(layer.mlp, *layer.moe);
    } else {
      builder.add_dense(layer.mlp, layer.post_mlp_norm);
    }
  }
  builder.enter("", Place::kLastStage, -1);
  builder.add_norm("decoder.final_layernorm.", arch.hidden_size);
  if (!arch.embedding.tied)
    builder.add("output_layer.weight", vocabulary, Split::along(0), false).vocabulary = true;
  return builder.take();
}

}  // namespace viaduct::models
