// The kinds of layers that a hybrid decoder's pattern names; what the parts of hybrid_decoder.h share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// Letters of the pattern.
inline constexpr char kMambaLayer = 'M';
inline constexpr char kAttentionLayer = '*';
inline constexpr char kMlpLayer = '-';
inline constexpr char kExpertsLayer = 'E';

/// What transformers assumes of experts, also in the configuration of a model that has none.
MoeSpec default_experts();
/// The width of one expert that transformers assumes.
inline constexpr int64_t kDefaultExpertSize = 7688;

/// One layer of each kind.
struct LayerKinds {
  LayerSpec mamba, attention, mlp, experts;

  /// `base` has the attention and the dense MLP, of which each layer is only one.
  LayerKinds(LayerSpec base, const MambaSpec& spec, const MoeSpec& moe, int64_t expert_size);
  /// The layers that a pattern of these letters names, in order.
  std::vector<LayerSpec> layers(std::string_view pattern) const;
};

/// The letters of these layers.
std::string pattern_of(const std::vector<LayerSpec>& layers);
/// The first layer of this kind, of the model or of its multi-token prediction; nullptr when it has none.
const LayerSpec* find_layer(const ArchSpec& arch, char kind);

}  // namespace viaduct::models
