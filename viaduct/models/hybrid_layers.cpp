#include "viaduct/models/hybrid_layers.h"

namespace viaduct::models {

MoeSpec default_experts() {
  MoeSpec moe;
  moe.num_experts = 8;
  moe.top_k = 2;
  moe.score = RouterScore::kSigmoid;
  moe.expert_bias = true;
  moe.groups = moe.group_top_k = 1;
  moe.scaling_factor = 1.0;
  moe.shared_ffn_size = 7688;
  moe.router_in_fp32 = true;
  moe.balancing = RouterBalancing::kSeqAuxLoss;
  moe.aux_loss_coeff = 1e-4;
  return moe;
}

LayerKinds::LayerKinds(LayerSpec base, const MambaSpec& spec, const MoeSpec& moe, int64_t expert_size) {
  base.mixer = Mixer::kNone;
  base.feed_forward = FeedForward::kNone;
  base.moe.reset();
  mamba = attention = mlp = experts = base;
  mamba.mixer = Mixer::kMamba;
  mamba.mamba = spec;
  attention.mixer = Mixer::kAttention;
  mlp.feed_forward = experts.feed_forward = FeedForward::kMlp;
  experts.moe = moe;
  experts.mlp.ffn_hidden_size = expert_size;
}

std::vector<LayerSpec> LayerKinds::layers(std::string_view pattern) const {
  std::vector<LayerSpec> result;
  for (const char c : pattern)
    result.push_back(c == kMambaLayer ? mamba : c == kAttentionLayer ? attention : c == kMlpLayer ? mlp : experts);
  return result;
}

namespace {

char symbol(const LayerSpec& layer) {
  if (layer.mixer == Mixer::kMamba) return kMambaLayer;
  if (layer.mixer == Mixer::kAttention) return kAttentionLayer;
  return layer.moe ? kExpertsLayer : kMlpLayer;
}

}  // namespace

std::string pattern_of(const std::vector<LayerSpec>& layers) {
  std::string pattern;
  for (const LayerSpec& layer : layers) pattern += symbol(layer);
  return pattern;
}

// The first layer of this kind, of the model or of its multi-token prediction.
const LayerSpec* find_layer(const ArchSpec& arch, char kind) {
  for (const LayerSpec& layer : arch.layers)
    if (symbol(layer) == kind) return &layer;
  if (!arch.mtp) return nullptr;
  for (const LayerSpec& layer : arch.mtp->layers)
    if (symbol(layer) == kind) return &layer;
  return nullptr;
}

}  // namespace viaduct::models
