#include "viaduct/bridge/model_layout.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "viaduct/config/model_config.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

using models::ArchSpec;
using models::Parameter;
using topology::Parallelism;

int64_t padded_vocab_size(int64_t vocab_size, int64_t divisor, int tp) {
  if (vocab_size % tp == 0) return vocab_size;
  const int64_t multiple = divisor * tp;
  return (vocab_size + multiple - 1) / multiple * multiple;
}

std::vector<std::string> check_layout(const ArchSpec& arch, const Parallelism& parallel) {
  std::vector<std::string> problems, notes;
  const auto add = [](std::vector<std::string>& list, std::string text) {
    if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(std::move(text));
  };
  const auto divides = [&](int64_t parts, int64_t whole, const char* flag, const std::string& what) {
    if (whole % parts != 0) add(problems, fmt::format("{} {} does not divide {} {}", flag, parts, what, whole));
  };
  for (const models::LayerSpec& layer : arch.layers) {
    const models::AttentionSpec& attention = layer.attention;
    const int64_t groups = attention.num_query_groups;
    divides(parallel.tp, attention.num_heads * attention.head_dim, "--tp", "the attention's width");
    divides(parallel.tp, (attention.num_heads + 2 * groups) * attention.head_dim, "--tp",
            "the rows of query, key and value");
    if (attention.num_heads % parallel.tp != 0 || (groups % parallel.tp != 0 && parallel.tp % groups != 0))
      add(notes,
          fmt::format("Megatron cannot run this model with --tp {}, which does not fit its {} attention heads in "
                      "{} groups; the checkpoint loads under every layout that does",
                      parallel.tp, attention.num_heads, groups));
    if (layer.moe) {
      divides(parallel.ep, layer.moe->num_experts, "--ep", "the number of experts");
      divides(parallel.etp, layer.mlp.ffn_hidden_size, "--etp", "the experts' MLP size");
    } else {
      divides(parallel.tp, layer.mlp.ffn_hidden_size, "--tp", "the MLP size");
    }
  }
  if (!arch.has_moe() && parallel.ep != 1)
    add(problems, fmt::format("--ep {} wants experts, and this model has none", parallel.ep));
  divides(int64_t{parallel.pp} * parallel.vpp, arch.num_layers(), parallel.vpp > 1 ? "--pp times --vpp," : "--pp",
          "the number of layers");
  if (parallel.vpp != 1 && parallel.pp == 1)
    add(problems, fmt::format("--vpp {} wants pipeline stages: --pp is 1", parallel.vpp));
  VIADUCT_USER_CHECK(problems.empty(), "the parallel layout does not fit the {} model:\n  {}", arch.family,
                     fmt::join(problems, "\n  "));
  return notes;
}

Shape shape_in_layout(const Parameter& parameter, const Parallelism& parallel) {
  Shape shape = parameter.shape;
  if (parameter.vocabulary) shape[0] = padded_vocab_size(shape[0], config::vocab_divisor(shape[0]), parallel.tp);
  return shape;
}

std::vector<layout::Box> chunk_boxes(const Parameter& parameter, const Shape& shape, const Parallelism& parallel) {
  if (parameter.split.is_replicated()) return {layout::Box::whole(shape)};
  const int ranks = parameter.expert >= 0 ? parallel.etp : parallel.tp;
  std::vector<layout::Box> boxes;
  for (int rank = 0; rank < ranks; ++rank)
    for (layout::Box& box : layout::shard_boxes(parameter.split, shape, ranks, rank))
      boxes.push_back(std::move(box));
  return boxes;
}

}  // namespace viaduct::bridge
