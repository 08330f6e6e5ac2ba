#include "viaduct/models/arch_spec.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/models/parameters.h"

namespace viaduct::models {

bool ArchSpec::has_moe() const {
  return std::any_of(layers.begin(), layers.end(), [](const LayerSpec& layer) { return layer.moe.has_value(); });
}

void ArchSpec::validate() const {
  std::string problems;
  const auto require = [&](bool condition, const std::string& problem) {
    if (!condition) problems += "\n  " + problem;
  };
  // Sizes beyond this are no model but a damaged file, and their products would overflow.
  constexpr int64_t kLimit = int64_t{1} << 28;
  const auto size = [&](int64_t value, const std::string& what) {
    require(value > 0 && value <= kLimit, fmt::format("{} is {}, not in 1 to {}", what, value, kLimit));
  };
  size(hidden_size, "the hidden size");
  size(embedding.vocab_size, "the vocabulary size");
  require(!layers.empty() && layers.size() <= 100000, fmt::format("there are {} layers", layers.size()));
  for (size_t i = 0; i < layers.size() && problems.size() < 2000; ++i) {
    const AttentionSpec& a = layers[i].attention;
    const std::string where = fmt::format(" of layer {}", i);
    size(a.num_heads, "the number of attention heads" + where);
    size(a.num_query_groups, "the number of key-value heads" + where);
    size(a.head_dim, "the head size" + where);
    size(layers[i].mlp.ffn_hidden_size, "the MLP size" + where);
    if (a.num_heads > 0 && a.num_query_groups > 0)
      require(a.num_heads % a.num_query_groups == 0,
              fmt::format("{} attention heads{} do not divide among {} key-value "
                          "heads",
                          a.num_heads, where, a.num_query_groups));
    if (layers[i].moe) {
      size(layers[i].moe->num_experts, "the number of experts" + where);
      require(
          layers[i].moe->top_k >= 1 && layers[i].moe->top_k <= layers[i].moe->num_experts,
          fmt::format("{} of {} experts are chosen{}", layers[i].moe->top_k, layers[i].moe->num_experts, where));
    }
  }
  VIADUCT_USER_CHECK(problems.empty(), "the {} model's configuration does not add up:{}", family, problems);
}

int64_t count_parameters(const ArchSpec& arch) {
  int64_t count = 0;
  for (const Parameter& parameter : megatron_parameters(arch)) count += num_elements(parameter.shape);
  return count;
}

}  // namespace viaduct::models
