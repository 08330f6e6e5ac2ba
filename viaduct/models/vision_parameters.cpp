// The parameters of the vision towers and their projectors. Towers that are transformers' own modules keep the
// names of those and are replicated; towers of Megatron's layers are cut like the language model's.
#include <algorithm>
#include <initializer_list>

#include "viaduct/core/error.h"
#include "viaduct/models/parameter_builder.h"

namespace viaduct::models {

using layout::Split;

namespace {

// A linear layer of a module that Megatron does not cut.
void add_plain_linear(ParameterBuilder& b, const std::string& name, int64_t out, int64_t in, bool bias) {
  b.add_plain(name + ".weight", {out, in});
  if (bias) b.add_plain(name + ".bias", {out});
}

void add_plain_norm(ParameterBuilder& b, const std::string& name, int64_t size, bool bias) {
  b.add_plain(name + ".weight", {size});
  if (bias) b.add_plain(name + ".bias", {size});
}

void add_siglip(ParameterBuilder& b, const VisionSpec& v) {
  const int64_t hidden = v.hidden_size;
  b.enter({.prefix = "vision_tower."});
  b.add_plain("embeddings.patch_embedding.weight", {hidden, v.num_channels, v.patch_size, v.patch_size});
  b.add_plain("embeddings.patch_embedding.bias", {hidden});
  b.add_plain("embeddings.position_embedding.weight", {v.num_positions, hidden});
  for (int64_t i = 0; i < v.num_layers; ++i) {
    b.enter({.prefix = fmt::format("vision_tower.encoder.layers.{}.", i)});
    add_plain_norm(b, "layer_norm1", hidden, true);
    for (const char* part : {"k_proj", "v_proj", "q_proj", "out_proj"})
      add_plain_linear(b, std::string("self_attn.") + part, hidden, hidden, true);
    add_plain_norm(b, "layer_norm2", hidden, true);
    add_plain_linear(b, "mlp.fc1", v.ffn_hidden_size, hidden, true);
    add_plain_linear(b, "mlp.fc2", hidden, v.ffn_hidden_size, true);
  }
  b.enter({.prefix = "vision_tower."});
  add_plain_norm(b, "post_layernorm", hidden, true);
  b.enter({.prefix = "multi_modal_projector."});
  b.add("mm_soft_embed_norm.weight", {hidden});
  b.add("proj.weight", {v.output_size, hidden}, Split::along(0));
}

void add_pixtral(ParameterBuilder& b, const VisionSpec& v) {
  const int64_t hidden = v.hidden_size, width = v.num_heads * v.head_dim;
  b.enter({.prefix = "vision_tower."});
  b.add_plain("patch_conv.weight", {hidden, v.num_channels, v.patch_size, v.patch_size});
  add_plain_norm(b, "ln_pre", hidden, false);
  for (int64_t i = 0; i < v.num_layers; ++i) {
    b.enter({.prefix = fmt::format("vision_tower.transformer.layers.{}.", i)});
    add_plain_norm(b, "attention_norm", hidden, false);
    add_plain_linear(b, "feed_forward.gate_proj", v.ffn_hidden_size, hidden, false);
    add_plain_linear(b, "feed_forward.up_proj", v.ffn_hidden_size, hidden, false);
    add_plain_linear(b, "feed_forward.down_proj", hidden, v.ffn_hidden_size, false);
    for (const char* part : {"k_proj", "v_proj", "q_proj"})
      add_plain_linear(b, std::string("attention.") + part, width, hidden, false);
    add_plain_linear(b, "attention.o_proj", hidden, width, false);
    add_plain_norm(b, "ffn_norm", hidden, false);
  }
  // The projector merges squares of patches before it widens them.
  const int64_t features = hidden * std::max<int64_t>(1, static_cast<int64_t>(v.feature_layers.size()));
  b.enter({.prefix = "multi_modal_projector."});
  add_plain_norm(b, "norm", hidden, false);
  b.add_plain("patch_merger.merging_layer.weight", {hidden, hidden * v.merge_size * v.merge_size});
  add_plain_linear(b, "linear_1", v.output_size, features, v.projector_bias);
  add_plain_linear(b, "linear_2", v.output_size, v.output_size, v.projector_bias);
}

void add_glm4v(ParameterBuilder& b, const VisionSpec& v) {
  const int64_t hidden = v.hidden_size, out = v.output_size;
  b.enter({.prefix = "visual."});
  b.add_plain("embeddings.position_embedding.weight", {v.num_positions, hidden});
  b.add_plain("patch_embed.proj.weight",
              {hidden, v.num_channels, v.temporal_patch_size, v.patch_size, v.patch_size});
  b.add_plain("patch_embed.proj.bias", {hidden});
  for (int64_t i = 0; i < v.num_layers; ++i) {
    b.enter({.prefix = fmt::format("visual.blocks.{}.", i)});
    add_plain_norm(b, "norm1", hidden, false);
    add_plain_norm(b, "norm2", hidden, false);
    add_plain_linear(b, "attn.qkv", 3 * hidden, hidden, v.attention_bias);
    add_plain_linear(b, "attn.proj", hidden, hidden, false);
    for (const char* part : {"gate_proj", "up_proj"})
      add_plain_linear(b, std::string("mlp.") + part, v.ffn_hidden_size, hidden, false);
    add_plain_linear(b, "mlp.down_proj", hidden, v.ffn_hidden_size, false);
  }
  b.enter({.prefix = "visual.merger."});
  add_plain_linear(b, "proj", out, out, false);
  add_plain_norm(b, "post_projection_norm", out, true);
  for (const char* part : {"gate_proj", "up_proj"}) add_plain_linear(b, part, v.projector_ffn_size, out, false);
  add_plain_linear(b, "down_proj", out, v.projector_ffn_size, false);
  b.enter({.prefix = "visual."});
  add_plain_norm(b, "post_conv_layernorm", hidden, false);
  b.add_plain("downsample.weight", {out, hidden, v.merge_size, v.merge_size});
  b.add_plain("downsample.bias", {out});
  add_plain_norm(b, "post_layernorm", hidden, false);
}

void add_qwen25(ParameterBuilder& b, const VisionSpec& v) {
  const int64_t hidden = v.hidden_size, merged = hidden * v.merge_size * v.merge_size;
  b.enter({.prefix = "visual."});
  b.add_plain("patch_embed.proj.weight",
              {hidden, v.num_channels, v.temporal_patch_size, v.patch_size, v.patch_size});
  for (int64_t i = 0; i < v.num_layers; ++i) {
    b.enter({.prefix = fmt::format("visual.blocks.{}.", i)});
    add_plain_norm(b, "norm1", hidden, false);
    add_plain_norm(b, "norm2", hidden, false);
    add_plain_linear(b, "attn.qkv", 3 * hidden, hidden, true);
    add_plain_linear(b, "attn.proj", hidden, hidden, true);
    for (const char* part : {"gate_proj", "up_proj"})
      add_plain_linear(b, std::string("mlp.") + part, v.ffn_hidden_size, hidden, true);
    add_plain_linear(b, "mlp.down_proj", hidden, v.ffn_hidden_size, true);
  }
  b.enter({.prefix = "visual.merger."});
  add_plain_norm(b, "ln_q", hidden, false);
  add_plain_linear(b, "mlp.0", merged, merged, true);
  add_plain_linear(b, "mlp.2", v.output_size, merged, true);
}

// A block of Megatron's own vision transformer: LayerNorm, biases everywhere, no gate.
void add_native_blocks(ParameterBuilder& b, const VisionSpec& v, const std::string& prefix) {
  const int64_t hidden = v.hidden_size, width = v.num_heads * v.head_dim, ffn = v.ffn_hidden_size;
  for (int64_t i = 0; i < v.num_layers; ++i) {
    b.enter({.prefix = fmt::format("{}decoder.layers.{}.", prefix, i),
             .block = static_cast<int32_t>(i),
             .num_blocks = static_cast<int32_t>(v.num_layers)});
    b.add("self_attention.linear_proj.weight", {hidden, width}, Split::along(1));
    b.add("self_attention.linear_proj.bias", {hidden});
    b.add_norm("self_attention.linear_qkv.layer_norm_", hidden, NormKind::kLayer);
    b.add("self_attention.linear_qkv.weight", {3 * width, hidden}, Split::along(0));
    b.add("self_attention.linear_qkv.bias", {3 * width}, Split::along(0));
    b.add_norm("mlp.linear_fc1.layer_norm_", hidden, NormKind::kLayer);
    b.add("mlp.linear_fc1.weight", {ffn, hidden}, Split::along(0));
    b.add("mlp.linear_fc1.bias", {ffn}, Split::along(0));
    b.add("mlp.linear_fc2.weight", {hidden, ffn}, Split::along(1));
    b.add("mlp.linear_fc2.bias", {hidden});
  }
}

void add_qwen3(ParameterBuilder& b, const VisionSpec& v) {
  const int64_t hidden = v.hidden_size, merged = hidden * v.merge_size * v.merge_size;
  const auto merger = [&](int64_t norm_size) {
    b.add_norm("patch_norm.", norm_size, NormKind::kLayer);
    b.add("linear_fc1.weight", {merged, merged}, Split::along(0));
    b.add("linear_fc1.bias", {merged}, Split::along(0));
    b.add("linear_fc2.weight", {v.output_size, merged}, Split::along(1));
    b.add("linear_fc2.bias", {v.output_size});
  };
  b.enter({.prefix = "vision_model."});
  b.add_plain("patch_embed.proj.weight",
              {hidden, v.num_channels, v.temporal_patch_size, v.patch_size, v.patch_size});
  b.add_plain("patch_embed.proj.bias", {hidden});
  b.add_plain("pos_embed.weight", {v.num_positions, hidden});
  add_native_blocks(b, v, "vision_model.");
  const auto mergers = static_cast<int32_t>(v.deepstack_layers.size());
  for (int32_t i = 0; i < mergers; ++i) {
    b.enter({.prefix = fmt::format("vision_model.decoder.deepstack_merger_list.{}.", i),
             .block = i,
             .num_blocks = mergers});
    merger(merged);  // normed after the patches are merged
  }
  b.enter({.prefix = "vision_model.merger."});
  merger(hidden);
}

void add_radio(ParameterBuilder& b, const VisionSpec& v) {
  const int64_t hidden = v.hidden_size, merged = hidden * v.merge_size * v.merge_size;
  b.enter({.prefix = "llava_model.vision_model."});
  b.add_plain("class_token", {v.num_class_tokens, hidden});
  b.add_plain("position_embeddings", {1, v.num_positions, hidden});
  b.add("embedder.weight", {hidden, v.num_channels * v.patch_size * v.patch_size}, Split::along(0));
  add_native_blocks(b, v, "llava_model.vision_model.");
  b.enter({.prefix = "llava_model.vision_projection.encoder."});
  b.add("linear_fc1.layer_norm_weight", {merged});
  b.add("linear_fc1.weight", {v.projector_ffn_size, merged}, Split::along(0));
  b.add("linear_fc2.weight", {v.output_size, v.projector_ffn_size}, Split::along(1));
}

}  // namespace

void add_vision(ParameterBuilder& builder, const VisionSpec& vision) {
  switch (vision.tower) {
    case VisionTower::kSiglip: return add_siglip(builder, vision);
    case VisionTower::kPixtral: return add_pixtral(builder, vision);
    case VisionTower::kGlm4v: return add_glm4v(builder, vision);
    case VisionTower::kQwen25: return add_qwen25(builder, vision);
    case VisionTower::kQwen3: return add_qwen3(builder, vision);
    case VisionTower::kRadio: return add_radio(builder, vision);
  }
}

}  // namespace viaduct::models
