#include "viaduct/bridge/model_layout.h"

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

void check_layout(const ArchSpec& arch, const Parallelism& parallel) {
  std::string problems;
  const auto require = [&](bool condition, const std::string& problem) {
    if (!condition && problems.find(problem) == std::string::npos) problems += "\n  " + problem;
  };
  const auto divides = [&](int64_t parts, int64_t whole, const char* flag, const std::string& what) {
    require(whole % parts == 0, fmt::format("{} {} does not divide {} {}", flag, parts, what, whole));
  };
  for (const models::LayerSpec& layer : arch.layers) {
    divides(parallel.tp, layer.attention.num_heads, "--tp", "the number of attention heads");
    const int64_t groups = layer.attention.num_query_groups;
    require(groups % parallel.tp == 0 || parallel.tp % groups == 0,
            fmt::format("of --tp {} and the number of key-value heads {} neither divides the other", parallel.tp,
                        groups));
    if (layer.moe) {
      divides(parallel.ep, layer.moe->num_experts, "--ep", "the number of experts");
      divides(parallel.etp, layer.mlp.ffn_hidden_size, "--etp", "the experts' MLP size");
    } else {
      divides(parallel.tp, layer.mlp.ffn_hidden_size, "--tp", "the MLP size");
    }
  }
  if (!arch.has_moe()) {
    require(parallel.ep == 1, fmt::format("--ep {} wants experts, and this model has none", parallel.ep));
  }
  const int64_t chunks = int64_t{parallel.pp} * parallel.vpp;
  divides(chunks, arch.num_layers(), parallel.vpp > 1 ? "--pp times --vpp," : "--pp", "the number of layers");
  require(parallel.vpp == 1 || parallel.pp > 1,
          fmt::format("--vpp {} wants pipeline stages: --pp is 1", parallel.vpp));
  VIADUCT_USER_CHECK(problems.empty(), "the parallel layout does not fit the {} model:{}", arch.family, problems);
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
    for (layout::Box& box : layout::shard_boxes(parameter.split, shape, ranks, rank)) boxes.push_back(std::move(box));
  return boxes;
}

}  // namespace viaduct::bridge
