// VisionSpec: the image side of a vision-language model, as plain data.
#pragma once

#include <cstdint>
#include <vector>

namespace viaduct::models {

/// Whose tower it is. The first four are transformers' own modules, which Megatron holds as they are; the last two
/// are built of Megatron's layers.
enum class VisionTower { kSiglip, kPixtral, kGlm4v, kQwen25, kQwen3, kRadio };

/// Sizes as config.json's vision_config gives them; what a tower does not have is 0 or false.
struct VisionSpec {
  VisionTower tower{};
  int64_t num_layers = 0;
  int64_t hidden_size = 0;
  int64_t ffn_hidden_size = 0;
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int64_t image_size = 0;
  int64_t patch_size = 0;
  int64_t temporal_patch_size = 0;
  int64_t num_channels = 3;
  int64_t num_positions = 0;       // rows of the learned position table
  int64_t merge_size = 0;          // patches a side that become one token
  int64_t output_size = 0;         // width behind the merger or projector: the language model's
  int64_t projector_ffn_size = 0;  // of the merger or projector
  int64_t num_class_tokens = 0;
  bool attention_bias = false;
  bool projector_bias = false;
  double norm_eps = 1e-6;
  std::vector<int64_t> deepstack_layers;       // after which features go into the first language layers
  std::vector<int64_t> full_attention_layers;  // the others attend inside of windows
  std::vector<int64_t> feature_layers;         // whose output the projector takes; empty: the last

  friend bool operator==(const VisionSpec&, const VisionSpec&) = default;
};

}  // namespace viaduct::models
