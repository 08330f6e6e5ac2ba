#include "viaduct/models/state_keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_set>

#include "viaduct/core/error.h"

namespace viaduct::models {

LayerKeys layer_keys_for(const ArchSpec& arch) {
  const auto is_moe = [](const LayerSpec& layer) { return layer.moe.has_value(); };
  const auto count = std::count_if(arch.layers.begin(), arch.layers.end(), is_moe);
  return count == 0 || count == arch.num_layers() ? LayerKeys::kStacked : LayerKeys::kPerLayer;
}

Shape StateKey::stored_shape(const Shape& shape) const {
  Shape result = prefix_sizes;
  for (int64_t size : shape) result.push_back(size);
  return result;
}

StateKey state_key(const Parameter& parameter, const ArchSpec& arch, LayerKeys keys) {
  StateKey result{parameter.name, {}, {}};
  if (parameter.layer >= 0 && keys == LayerKeys::kStacked) {
    const std::string number = fmt::format("layers.{}.", parameter.layer);
    const size_t at = result.key.find(number);
    VIADUCT_CHECK(at != std::string::npos, "{}", parameter.name);
    result.key.replace(at, number.size(), "layers.");
    result.prefix.push_back(parameter.layer);
    result.prefix_sizes.push_back(arch.num_layers());
  }
  if (parameter.expert >= 0) {
    // mlp.experts.linear_fc1.weight7 -> mlp.experts.experts.linear_fc1.weight, [..., 7]
    const std::string number = std::to_string(parameter.expert);
    VIADUCT_CHECK(result.key.ends_with(number), "{}", parameter.name);
    result.key.resize(result.key.size() - number.size());
    const size_t at = result.key.find(".experts.");
    VIADUCT_CHECK(at != std::string::npos, "{}", parameter.name);
    result.key.insert(at, ".experts");
    const auto& moe = arch.layers.at(static_cast<size_t>(parameter.layer)).moe;
    result.prefix.push_back(parameter.expert);
    result.prefix_sizes.push_back(moe->num_experts);
  }
  return result;
}

std::vector<std::string> alternative_keys(const std::string& key) {
  static constexpr std::pair<std::string_view, std::string_view> kTwins[] = {
      {"self_attention.linear_qkv.layer_norm_", "input_layernorm."},
      {"mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."},
  };
  std::vector<std::string> result;
  for (const auto& [fused, separate] : kTwins) {
    for (const auto& [from, to] : {std::pair(fused, separate), std::pair(separate, fused)}) {
      const size_t at = key.find(from);
      if (at == std::string::npos) continue;
      result.push_back(key);
      result.back().replace(at, from.size(), to);
    }
  }
  return result;
}

std::vector<std::string> extra_state_names(const std::vector<Parameter>& parameters, const ArchSpec& arch,
                                           LayerKeys keys) {
  std::vector<std::string> names;
  std::unordered_set<std::string> seen;
  for (const Parameter& parameter : parameters) {
    if (!parameter.has_extra_state) continue;
    const StateKey key = state_key(parameter, arch, keys);
    const std::string module = key.key.substr(0, key.key.rfind('.'));
    const std::string shard =
        key.prefix.empty() ? "0_1"
                           : fmt::format("{}_{}", fmt::join(key.prefix, "."), fmt::join(key.prefix_sizes, "."));
    std::string name = fmt::format("{}._extra_state/shard_{}", module, shard);
    if (seen.insert(name).second) names.push_back(std::move(name));
  }
  return names;
}

}  // namespace viaduct::models
