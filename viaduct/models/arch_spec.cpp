#include "viaduct/models/arch_spec.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/models/parameters.h"

namespace viaduct::models {

bool ArchSpec::has_moe() const {
  return std::any_of(layers.begin(), layers.end(), [](const LayerSpec& layer) { return layer.moe.has_value(); });
}

const LayerSpec& ArchSpec::attention_layer() const {
  const auto it = std::find_if(layers.begin(), layers.end(), [](const LayerSpec& l) { return l.has_attention(); });
  return it != layers.end() ? *it : layers.at(0);
}

const LayerSpec* ArchSpec::moe_layer() const {
  const auto it = std::find_if(layers.begin(), layers.end(), [](const LayerSpec& l) { return l.moe.has_value(); });
  return it != layers.end() ? &*it : nullptr;
}

namespace {

// Sizes beyond this are no model but a damaged file, and their products would overflow.
constexpr int64_t kLargestSize = int64_t{1} << 28;

// Collects what does not add up.
class Problems {
 public:
  void require(bool condition, const std::string& problem) {
    if (!condition) text_ += "\n  " + problem;
  }
  void size(int64_t value, const std::string& what, int64_t least = 1) {
    require(value >= least && value <= kLargestSize,
            fmt::format("{} is {}, not in {} to {}", what, value, least, kLargestSize));
  }
  bool many() const { return text_.size() > 2000; }
  const std::string& text() const { return text_; }

  void check_attention(const AttentionSpec& a, const std::string& where) {
    size(a.num_heads, "the number of attention heads" + where);
    if (a.mla) {
      if (a.mla->q_lora_rank) size(*a.mla->q_lora_rank, "the query's latent size" + where);
      size(a.mla->kv_lora_rank, "the latent size of key and value" + where);
      size(a.mla->nope_head_dim, "the head size without positions" + where);
      size(a.mla->rope_head_dim, "the rotated head size" + where);
      size(a.mla->v_head_dim, "the head size of values" + where);
      return;
    }
    size(a.num_query_groups, "the number of key-value heads" + where);
    size(a.head_dim, "the head size" + where);
    if (a.num_heads > 0 && a.num_query_groups > 0)
      require(a.num_heads % a.num_query_groups == 0,
              fmt::format("{} attention heads{} do not divide among {} key-value heads", a.num_heads, where,
                          a.num_query_groups));
  }

  void check_mixer(const LayerSpec& layer, const std::string& where) {
    if (layer.has_attention()) check_attention(layer.attention, where);
    if (layer.mixer == Mixer::kMamba) {
      size(layer.mamba->num_heads, "the number of Mamba heads" + where);
      size(layer.mamba->head_dim, "the Mamba head size" + where);
      size(layer.mamba->num_groups, "the number of Mamba groups" + where);
      size(layer.mamba->state_dim, "the Mamba state size" + where);
      size(layer.mamba->conv_kernel, "the width of Mamba's convolution" + where);
    }
    if (layer.mixer == Mixer::kDeltaNet) {
      const DeltaNetSpec& net = *layer.delta_net;
      size(net.num_key_heads, "the number of linear attention's key heads" + where);
      size(net.num_value_heads, "the number of linear attention's value heads" + where);
      size(net.key_head_dim, "linear attention's key head size" + where);
      size(net.value_head_dim, "linear attention's value head size" + where);
      size(net.conv_kernel, "the width of linear attention's convolution" + where);
      if (net.num_key_heads > 0)
        require(net.num_value_heads % net.num_key_heads == 0,
                fmt::format("{} value heads of linear attention{} do not divide among {} key heads",
                            net.num_value_heads, where, net.num_key_heads));
    }
  }

  void check_layer(const LayerSpec& layer, const std::string& where) {
    check_mixer(layer, where);
    if (layer.has_mlp()) size(layer.mlp.ffn_hidden_size, "the MLP size" + where);
    if (!layer.moe) return;
    const MoeSpec& moe = *layer.moe;
    size(moe.num_experts, "the number of experts" + where);
    require(moe.top_k >= 1 && moe.top_k <= moe.num_experts,
            fmt::format("{} of {} experts are chosen{}", moe.top_k, moe.num_experts, where));
    if (moe.shared_ffn_size) size(*moe.shared_ffn_size, "the size of the shared experts" + where);
    if (moe.latent_size) size(*moe.latent_size, "the experts' latent size" + where);
    if (moe.groups)
      require(*moe.groups >= 1 && moe.num_experts % *moe.groups == 0,
              fmt::format("{} experts{} do not divide among {} groups", moe.num_experts, where, *moe.groups));
  }

  void check_vision(const VisionSpec& vision) {
    size(vision.num_layers, "the number of vision layers", 0);
    size(vision.hidden_size, "the vision tower's width");
    size(vision.ffn_hidden_size, "the vision tower's MLP size");
    size(vision.num_heads, "the number of vision heads");
    size(vision.patch_size, "the patch size");
    for (const auto& [value, what] :
         {std::pair(vision.head_dim, "the vision head size"), std::pair(vision.image_size, "the image size"),
          std::pair(vision.temporal_patch_size, "the temporal patch size"),
          std::pair(vision.num_channels, "the number of channels"),
          std::pair(vision.num_positions, "the number of image positions"),
          std::pair(vision.merge_size, "the merge size"), std::pair(vision.output_size, "the projector's output"),
          std::pair(vision.projector_ffn_size, "the projector's MLP size"),
          std::pair(vision.num_class_tokens, "the number of class tokens")})
      size(value, what, 0);
  }

 private:
  std::string text_;
};

}  // namespace

namespace {
constexpr int64_t kMostExperts = 2'000'000;
}

void ArchSpec::validate() const {
  Problems problems;
  problems.size(hidden_size, "the hidden size");
  problems.size(embedding.vocab_size, "the vocabulary size");
  problems.require(!layers.empty() && layers.size() <= 100000, fmt::format("there are {} layers", layers.size()));
  for (size_t i = 0; i < layers.size() && !problems.many(); ++i)
    problems.check_layer(layers[i], fmt::format(" of layer {}", i));
  // Each expert is a module of its own: a senseless number would fill the memory before anything could be compared.
  int64_t experts = 0;
  for (const LayerSpec& layer : layers)
    if (layer.moe) experts += std::clamp<int64_t>(layer.moe->num_experts, 0, kMostExperts + 1);
  problems.require(experts <= kMostExperts,
                   fmt::format("there are more than {} experts in all layers", kMostExperts));
  if (mtp) {
    problems.require(mtp->depth >= 1 && mtp->depth <= 1000,
                     fmt::format("there are {} layers of multi-token prediction", mtp->depth));
    for (const LayerSpec& layer : mtp->layers) problems.check_layer(layer, " of multi-token prediction");
  }
  if (vision) problems.check_vision(*vision);
  VIADUCT_USER_CHECK(problems.text().empty(), "the {} model's configuration does not add up:{}", family,
                     problems.text());
}

int64_t count_parameters(const ArchSpec& arch) {
  int64_t count = 0;
  for (const Parameter& parameter : megatron_parameters(arch)) count += num_elements(parameter.shape);
  return count;
}

}  // namespace viaduct::models
