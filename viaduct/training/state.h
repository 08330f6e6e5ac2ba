// GlobalState: everything that a run has.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "viaduct/config/config_container.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/optim/optimizer.h"
#include "viaduct/optim/param_schedule.h"
#include "viaduct/parallel/mesh.h"
#include "viaduct/parallel/rng.h"
#include "viaduct/parallel/timers.h"
#include "viaduct/topology/microbatches.h"
#include "viaduct/training/checkpoint_manager.h"
#include "viaduct/training/loss_spikes.h"
#include "viaduct/training/memory_report.h"
#include "viaduct/training/progress_log.h"
#include "viaduct/training/tokenizer_files.h"
#include "viaduct/training/train_state.h"
#include "viaduct/training/training_log.h"

namespace viaduct::training {

/// Upstream's timers of what comes before training.
inline constexpr std::string_view kModelSetup = "model-and-optimizer-setup";
inline constexpr std::string_view kDataSetup = "train/valid/test-data-iterators-setup";

/// Made by setup(), changed by train().
struct GlobalState {
  config::ConfigContainer cfg;  // finalized
  std::shared_ptr<const parallel::Mesh> mesh;
  c10::Device device = at::kCPU;
  nn::ContextPtr context;
  std::vector<std::shared_ptr<nn::GptModel>> model;  // this rank's chunks
  std::unique_ptr<parallel::RngStates> rng;
  std::unique_ptr<parallel::Timers> timers;
  std::unique_ptr<optim::Optimizer> optimizer;
  std::optional<optim::ParamSchedule> scheduler;
  std::optional<topology::BatchSchedule> batches;
  int64_t train_iterations = 0;
  TrainState train_state;
  double flops_per_sample = 0;                     // of a training step
  std::unique_ptr<CheckpointManager> checkpoints;  // null where checkpoint.save is not set
  std::unique_ptr<TrainingLog> log;                // of the first rank; null elsewhere
  std::unique_ptr<ProgressLog> progress;           // of the first rank, where logger.log_progress asks
  std::optional<MemoryReport> memory;
  LossSpikes spikes{10};
  int64_t first_iteration = 1;                 // that this job trains
  bool memory_told = false;                    // on the console
  std::vector<TokenizerFile> tokenizer_files;  // that checkpoints carry along; on the first rank

  /// The chunks as modules.
  nn::ModelChunks chunks() const { return {model.begin(), model.end()}; }
  /// A line of the run's own, on the first rank.
  void say(const std::string& line) const {
    if (log) log->say(line);
  }
  /// What these timers of a whole run measured (timing_log_level 0). Collective.
  void say_times(std::initializer_list<std::string_view> names) const {
    if (const auto lines = timers->lines({names.begin(), names.size()}, /*by_iteration=*/false)) say(*lines);
  }
};

}  // namespace viaduct::training
