#include "viaduct/models/state_keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_set>

#include "viaduct/core/error.h"

namespace viaduct::models {

LayerKeys layer_keys_for(const ArchSpec& arch) {
  if (arch.hybrid || arch.per_layer_keys) return LayerKeys::kPerLayer;
  const auto is_moe = [](const LayerSpec& layer) { return layer.moe.has_value(); };
  const auto count = std::count_if(arch.layers.begin(), arch.layers.end(), is_moe);
  return count == 0 || count == arch.num_layers() ? LayerKeys::kStacked : LayerKeys::kPerLayer;
}

Shape StateKey::part_shape(const Shape& shape) const {
  Shape part = shape;
  if (rows >= 0) part[0] = rows;
  return part;
}

Shape StateKey::stored_shape(const Shape& shape) const {
  Shape result = prefix_sizes;
  for (int64_t size : part_shape(shape)) result.push_back(size);
  return result;
}

namespace {

void replace(std::string& text, std::string_view from, std::string_view to) {
  if (const size_t at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
}

// Takes "3." out of "decoder.layers.3.mlp" and makes it an index on a leading axis.
void stack(StateKey& key, int32_t index, int64_t count) {
  const std::string number = fmt::format(".{}.", index);
  const size_t at = key.key.find(number);
  VIADUCT_CHECK(at != std::string::npos, "{} has no {}", key.key, number);
  key.key.replace(at, number.size(), ".");
  key.prefix.push_back(index);
  key.prefix_sizes.push_back(count);
}

}  // namespace

std::vector<StateKey> state_keys(const Parameter& parameter, const ArchSpec& arch, LayerKeys keys) {
  StateKey base{parameter.name, {}, {}};
  if (parameter.block >= 0) {
    stack(base, parameter.block, parameter.num_blocks);
  } else if (parameter.layer >= 0 && keys == LayerKeys::kStacked) {
    stack(base, parameter.layer, arch.num_layers());
  }
  if (parameter.expert >= 0) {
    // mlp.experts.linear_fc1.weight7 -> mlp.experts.experts.linear_fc1.weight, [..., 7]
    const std::string number = std::to_string(parameter.expert);
    VIADUCT_CHECK(base.key.ends_with(number), "{}", parameter.name);
    base.key.resize(base.key.size() - number.size());
    const size_t at = base.key.find(".experts.");
    VIADUCT_CHECK(at != std::string::npos, "{}", parameter.name);
    base.key.insert(at, ".experts");
    base.prefix.push_back(parameter.expert);
    base.prefix_sizes.push_back(parameter.layer_in(arch)->moe->num_experts);
  }
  if (parameter.mtp_layer >= 0 && !arch.hybrid) replace(base.key, ".mtp_model_layer.", ".transformer_layer.");
  if (parameter.stored_parts.empty()) return {std::move(base)};

  replace(base.key, ".conv1d_", ".conv1d.");
  const std::vector<int64_t>& sizes = parameter.split.components;
  VIADUCT_CHECK_EQ(sizes.size(), parameter.stored_parts.size(), "{}", parameter.name);
  std::vector<StateKey> parts;
  for (size_t i = 0; i < sizes.size(); ++i) {
    StateKey& part = parts.emplace_back(base);
    part.key += parameter.stored_parts[i];
    part.begin = i == 0 ? 0 : parts[i - 1].begin + parts[i - 1].rows;
    part.rows = sizes[i];
  }
  return parts;
}

std::vector<std::string> alternative_keys(const std::string& key) {
  static constexpr std::pair<std::string_view, std::string_view> kTwins[] = {
      {"self_attention.linear_qkv.layer_norm_", "input_layernorm."},
      {"self_attention.linear_q_up_proj.layer_norm_", "self_attention.q_layernorm."},
      {"self_attention.linear_kv_up_proj.layer_norm_", "self_attention.kv_layernorm."},
      {"self_attention.in_proj.layer_norm_", "input_layernorm."},
      {"mixer.in_proj.layer_norm_", "norm."},
      {"mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."},
      {"decoder.final_norm.", "decoder.final_layernorm."},
      {".transformer_layer.", ".mtp_model_layer."},
      {".conv1d.weight", ".conv1d_weight"},
      {".conv1d.bias", ".conv1d_bias"},
  };
  std::vector<std::string> result;
  for (const auto& [fused, separate] : kTwins) {
    for (const auto& [from, to] : {std::pair(fused, separate), std::pair(separate, fused)}) {
      const size_t at = key.find(from);
      if (at == std::string::npos || (at > 0 && from[0] != '.' && key[at - 1] != '.')) continue;
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
    const StateKey key = state_keys(parameter, arch, keys)[0];
    // The module is what comes before the parameter's own name, which has no dot.
    const size_t leaf =
        parameter.stored_parts.empty() ? key.key.rfind('.') : key.key.rfind('.', key.key.rfind('.') - 1);
    const std::string module = key.key.substr(0, leaf);
    const std::string shard =
        key.prefix.empty() ? "0_1"
                           : fmt::format("{}_{}", fmt::join(key.prefix, "."), fmt::join(key.prefix_sizes, "."));
    std::string name = fmt::format("{}._extra_state/shard_{}", module, shard);
    if (seen.insert(name).second) names.push_back(std::move(name));
  }
  return names;
}

}  // namespace viaduct::models
