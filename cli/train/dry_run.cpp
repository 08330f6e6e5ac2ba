#include "cli/train/dry_run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>

#include "viaduct/config/finalize.h"
#include "viaduct/models/flops.h"
#include "viaduct/models/memory_estimate.h"
#include "viaduct/models/pipeline_options.h"
#include "viaduct/models/registry.h"
#include "viaduct/topology/rank_grid.h"
#include "viaduct/training/setup.h"

namespace viaduct::cli {

namespace {

using config::ConfigContainer;
using topology::Axis;

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

// All ranks of a short group, beginning and end of a longer one.
std::string group_text(const std::vector<int>& ranks) {
  if (ranks.size() <= 8) return fmt::format("{}", fmt::join(ranks, " "));
  return fmt::format("{} {} {} ... {}", ranks[0], ranks[1], ranks[2], ranks.back());
}

void print_ranks(const ConfigContainer& config, const models::ArchSpec& arch, int world_size) {
  const auto order =
      config.dist.use_tp_pp_dp_mapping ? topology::RankOrder::kDataLast : topology::RankOrder::kPipelineLast;
  const topology::RankGrid grid(models::parallelism_of(config.model, world_size), order);
  fmt::print("#\n# ranks: {}\n# axis                     ranks  groups  the first group\n", grid.world_size());
  struct Line {
    const char* name;
    Axis axis;
    bool experts;
  };
  constexpr Line kLines[] = {{"tensor parallel", Axis::kTp, false},        {"pipeline parallel", Axis::kPp, false},
                             {"context parallel", Axis::kCp, false},       {"data parallel", Axis::kDp, false},
                             {"expert tensor parallel", Axis::kEtp, true}, {"expert parallel", Axis::kEp, true},
                             {"expert data parallel", Axis::kEdp, true}};
  for (const Line& line : kLines) {
    if (line.experts && !arch.has_moe()) continue;
    const int size = grid.size(line.axis);
    fmt::print("# {:<23} {:>6} {:>7}  {}\n", line.name, size, grid.world_size() / size,
               group_text(grid.group_of(0, {line.axis})));
  }
}

void print_stages(const models::MemoryEstimate& estimate) {
  fmt::print(
      "#\n# GiB of a rank (without communication buffers, workspaces and the CUDA context)\n"
      "# stage  ranks  layers    parameters  weights  gradients  optimizer  activations    all\n");
  for (const models::StageMemory& stage : estimate.stages)
    fmt::print("# {:>5} {:>6} {:>7} {:>13} {:>8.2f} {:>10.2f} {:>10.2f} {:>12.2f} {:>6.2f}\n", stage.pp_rank,
               stage.ranks, stage.layers, stage.parameters + stage.adapter_parameters, stage.weights / kGib,
               stage.gradients / kGib, stage.optimizer / kGib, stage.activations / kGib, stage.total() / kGib);
}

void print_recomputation(const models::ArchSpec& arch, const ConfigContainer& config, int world_size) {
  struct Choice {
    const char* text;
    config::OptString granularity, method;
    config::OptInt layers;
    config::OptStrings modules;
  };
  const Choice choices[] = {
      {"none", std::nullopt, std::nullopt, std::nullopt, std::nullopt},
      {"selective, core_attn", "selective", std::nullopt, std::nullopt, config::Strings{"core_attn"}},
      {"full, uniform, 1 layer", "full", "uniform", 1, std::nullopt},
  };
  fmt::print("#\n# activations of the fullest rank by recomputation, GiB\n");
  for (const Choice& choice : choices) {
    ConfigContainer other = config;
    other.model.recompute_granularity = choice.granularity;
    other.model.recompute_method = choice.method;
    other.model.recompute_num_layers = choice.layers;
    other.model.recompute_modules = choice.modules;
    const models::StageMemory& stage = models::estimate_memory(arch, other, world_size).largest();
    fmt::print("# {:<24} {:>8.2f}  (all {:.2f})\n", choice.text, stage.activations / kGib, stage.total() / kGib);
  }
}

void print_operations(const models::ArchSpec& arch, const ConfigContainer& config) {
  const double length = static_cast<double>(config.model.seq_length);
  const double flops = models::count_flops(arch, {.seq_length = length}).training_flops();
  fmt::print("#\n# {:.4g} GFLOP a token in training, {:.4g} TFLOP an iteration of {} sequences of {} tokens\n",
             flops * 1e-9, flops * length * static_cast<double>(config.train.global_batch_size.value_or(1)) * 1e-12,
             config.train.global_batch_size.value_or(1), config.model.seq_length);
}

}  // namespace

void print_dry_run(ConfigContainer config, int64_t world_size) {
  if (!config.model.vocab_size)
    training::settle_vocabulary(config, training::open_tokenizer(config.tokenizer).get());
  const config::FinalizeReport report =
      config::finalize_config(config, {.world_size = world_size, .check_paths = false});
  const models::ArchSpec arch = models::read_arch(config.model);
  const int ranks = static_cast<int>(world_size);
  const models::MemoryEstimate estimate = models::estimate_memory(arch, config, ranks);
  fmt::print("{}", config.print_yaml());
  for (const auto* lines : {&report.changes, &report.warnings})
    for (const std::string& line : *lines) fmt::print("# {}\n", line);
  print_ranks(config, arch, ranks);
  print_stages(estimate);
  print_recomputation(arch, config, ranks);
  print_operations(arch, config);
}

}  // namespace viaduct::cli
