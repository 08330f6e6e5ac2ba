#include "viaduct/bridge/model_layout.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "viaduct/config/model_config.h"
#include "viaduct/core/error.h"
#include "viaduct/models/parameter_builder.h"

namespace viaduct::bridge {

using models::ArchSpec;
using models::Parameter;
using topology::Parallelism;

int64_t padded_vocab_size(int64_t vocab_size, int64_t divisor, int tp) {
  if (vocab_size % tp == 0) return vocab_size;
  const int64_t multiple = divisor * tp;
  return (vocab_size + multiple - 1) / multiple * multiple;
}

topology::PipelineOptions pipeline_options(const ArchSpec& arch, const Parallelism& parallel) {
  topology::PipelineOptions options;
  const auto layers = static_cast<int>(arch.num_layers());
  options.num_layers = layers;
  options.mtp_num_layers = arch.mtp ? static_cast<int>(arch.mtp->depth) : 0;
  options.pipeline_model_parallel_size = parallel.pp;
  options.virtual_pipeline_model_parallel_size = parallel.vpp;
  if (parallel.split.given()) {
    options.set_split(parallel.split);
    return options;
  }
  const int chunks = parallel.pp * parallel.vpp;
  if (layers % chunks == 0 || layers < chunks) return options;
  const int most = (layers + chunks - 1) / chunks;
  const bool filled = most * (chunks - 1) < layers;  // the last one gets something too
  if (arch.hybrid) {  // takes no layout: its stages are equal but for the first and the last
    options.num_layers_in_last_pipeline_stage = layers - (filled ? most : layers / chunks) * (chunks - 1);
    return options;
  }
  topology::StageList& stages = options.pipeline_model_parallel_layout.emplace();
  int left = layers;
  for (int i = 0; i < chunks; ++i) {
    const int count = filled ? std::min(most, left) : most - (i < layers % chunks ? 0 : 1);
    stages.emplace_back(static_cast<size_t>(count), topology::LayerKind::kTransformer);
    left -= count;
  }
  stages.front().insert(stages.front().begin(), topology::LayerKind::kEmbedding);
  stages.back().insert(stages.back().end(), static_cast<size_t>(options.mtp_num_layers), topology::LayerKind::kMtp);
  stages.back().push_back(topology::LayerKind::kLoss);
  return options;
}

namespace {

class LayoutCheck {
 public:
  explicit LayoutCheck(const Parallelism& parallel) : parallel_(parallel) {}

  void check_layer(const models::LayerSpec& layer, int64_t hidden_size) {
    switch (layer.mixer) {
      case models::Mixer::kAttention: check_attention(layer.attention); break;
      case models::Mixer::kMamba:
        by_tp(layer.mamba->num_heads, "the number of Mamba heads");
        by_tp(layer.mamba->num_groups, "the number of Mamba groups");
        break;
      case models::Mixer::kDeltaNet:
        by_tp(layer.delta_net->num_key_heads, "the number of linear attention's key heads");
        by_tp(layer.delta_net->num_value_heads, "the number of linear attention's value heads");
        break;
      case models::Mixer::kLinear: by_tp(hidden_size, "the hidden size"); break;
      case models::Mixer::kNone: break;
    }
    if (layer.feed_forward == models::FeedForward::kLinear) by_tp(hidden_size, "the hidden size");
    if (!layer.has_mlp()) return;
    if (!layer.moe) return by_tp(layer.mlp.ffn_hidden_size, "the MLP size");
    divides(parallel_.ep, layer.moe->num_experts, "--ep", "the number of experts");
    divides(parallel_.etp, layer.mlp.ffn_hidden_size, "--etp", "the experts' MLP size");
    if (layer.moe->shared_ffn_size) by_tp(*layer.moe->shared_ffn_size, "the size of the shared experts");
  }

  void check_vision(const ArchSpec& arch) {
    models::ParameterBuilder builder(arch);
    models::add_vision(builder, *arch.vision);
    for (const Parameter& parameter : builder.take()) {
      const layout::Split& split = parameter.split;
      if (split.is_replicated()) continue;
      std::vector<int64_t> sizes = split.components;
      if (sizes.empty()) sizes.push_back(parameter.shape[split.axis]);
      for (const int64_t size : sizes)
        divides(parallel_.tp, size, "--tp",
                split.axis == 0 ? "the vision tower's rows," : "the vision tower's columns,");
    }
  }

  void by_tp(int64_t whole, const char* what) { divides(parallel_.tp, whole, "--tp", what); }
  void divides(int64_t parts, int64_t whole, const char* flag, const char* what) {
    if (whole % parts != 0) add(problems, fmt::format("{} {} does not divide {} {}", flag, parts, what, whole));
  }
  static void add(std::vector<std::string>& list, std::string text) {
    if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(std::move(text));
  }

  std::vector<std::string> problems, notes;

 private:
  void check_attention(const models::AttentionSpec& attention) {
    const int64_t heads = attention.num_heads;
    if (attention.mla) {
      by_tp(heads * attention.mla->v_head_dim, "the attention's width");
      by_tp(heads * (attention.mla->nope_head_dim + attention.mla->rope_head_dim), "the rows of the query");
      by_tp(heads * (attention.mla->nope_head_dim + attention.mla->v_head_dim), "the rows of key and value");
      if (heads % parallel_.tp != 0)
        add(notes,
            fmt::format("Megatron cannot run this model with --tp {}, which does not divide its {} attention "
                        "heads; the checkpoint loads under every layout that does",
                        parallel_.tp, heads));
      return;
    }
    const int64_t groups = attention.num_query_groups;
    by_tp(heads * attention.head_dim, "the attention's width");
    by_tp((heads * (attention.output_gate ? 2 : 1) + 2 * groups) * attention.head_dim,
          "the rows of query, key and value");
    if (attention.sinks) by_tp(heads, "the number of attention sinks");
    if (heads % parallel_.tp != 0 || (groups % parallel_.tp != 0 && parallel_.tp % groups != 0))
      add(notes,
          fmt::format("Megatron cannot run this model with --tp {}, which does not fit its {} attention heads in "
                      "{} groups; the checkpoint loads under every layout that does",
                      parallel_.tp, heads, groups));
  }

  const Parallelism& parallel_;
};

std::string spread(const topology::PipelineOptions& options) {
  if (const auto& layout = options.pipeline_model_parallel_layout)
    return "pipeline_model_parallel_layout " + topology::to_string(*layout);
  return fmt::format("num_layers_in_last_pipeline_stage {}", options.num_layers_in_last_pipeline_stage.value());
}

}  // namespace

std::vector<std::string> check_layout(const ArchSpec& arch, const Parallelism& parallel) {
  LayoutCheck check(parallel);
  const models::LayerSpec* last = nullptr;
  for (const models::LayerSpec& layer : arch.layers) {
    if (!last || !(*last == layer)) check.check_layer(layer, arch.hidden_size);
    last = &layer;
  }
  if (arch.mtp) {
    check.by_tp(arch.hidden_size, "the hidden size");
    for (const models::LayerSpec& layer : arch.mtp->layers) check.check_layer(layer, arch.hidden_size);
  }
  if (arch.vision) check.check_vision(arch);
  if (!arch.has_moe() && parallel.ep != 1)
    check.add(check.problems, fmt::format("--ep {} wants experts, and this model has none", parallel.ep));
  const int64_t chunks = int64_t{parallel.pp} * parallel.vpp;
  const char* flag = parallel.vpp > 1 ? "--pp times --vpp," : "--pp";
  if (parallel.split.given())
    static_cast<void>(topology::Pipeline(pipeline_options(arch, parallel)));  // says what does not fit
  else if (arch.num_layers() < chunks)
    check.add(check.problems,
              fmt::format("{} {}, is more than the number of layers {}", flag, chunks, arch.num_layers()));
  else if (arch.num_layers() % chunks != 0)
    check.add(check.notes,
              fmt::format("{} {} does not divide the number of layers {}: run_config.yaml spreads them by {}", flag,
                          chunks, arch.num_layers(), spread(pipeline_options(arch, parallel))));
  if (parallel.vpp != 1 && arch.hybrid)
    check.add(check.problems,
              fmt::format("--vpp {}: Megatron has no virtual pipeline for hybrid models", parallel.vpp));
  if (parallel.vpp != 1 && parallel.pp == 1)
    check.add(check.problems, fmt::format("--vpp {} wants pipeline stages: --pp is 1", parallel.vpp));
  VIADUCT_USER_CHECK(check.problems.empty(), "the parallel layout does not fit the {} model:\n  {}", arch.family,
                     fmt::join(check.problems, "\n  "));
  return check.notes;
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
