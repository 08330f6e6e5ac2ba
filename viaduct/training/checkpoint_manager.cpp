#include "viaduct/training/checkpoint_manager.h"

#include <ATen/ATen.h>

#include "viaduct/nn/agree.h"
#include "viaduct/optim/optimizer.h"
#include "viaduct/training/checkpoint_save.h"
#include "viaduct/training/state.h"

namespace viaduct::training {

CheckpointManager::CheckpointManager(const config::CheckpointConfig& config) : config_(config) {}
CheckpointManager::~CheckpointManager() = default;

double CheckpointManager::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

void CheckpointManager::tell_progress(const GlobalState& state) {
  nn::agree(state.mesh->world, state.device, [&] {
    const TrainState& run = state.train_state;
    if (state.progress)
      state.progress->saving(run.step, run.floating_point_operations_so_far,
                             static_cast<double>(run.consumed_train_samples * state.cfg.model.seq_length),
                             config_.async_save);
  });
}

void CheckpointManager::save(GlobalState& state) {
  finish(state);
  if (last_ == state.train_state.step) return;
  state.optimizer->finish_gathering();
  SaveOptions options;
  options.optimizer = config_.save_optim;
  options.rng = config_.save_rng;
  options.tokenizer = config_.save_tokenizer_assets;
  options.writers = config_.fully_parallel_save ? ReplicaWriters::kShared : ReplicaWriters::kFirst;
  options.files = static_cast<int>(std::max<int64_t>(1, config_.storage_writers_per_rank));
  options.background = config_.async_save;
  begin_ = std::chrono::steady_clock::now();
  pending_ = PendingSave::start(state, *config_.save, options);
  if (config_.async_save) tell_progress(state);
  if (!config_.async_save) return finish(state);
  state.say(fmt::format(" saving iteration {} to {} in the background: copied in {:.2f} s", pending_->iteration(),
                        *config_.save, seconds()));
}

void CheckpointManager::poll(GlobalState& state) {
  if (!pending_) return;
  at::Tensor written =
      at::full({1}, pending_->written() ? 1 : 0, at::TensorOptions().dtype(at::kInt).device(state.device));
  state.mesh->world.all_reduce(written, parallel::Reduce::kMin);
  if (written.item<int>() != 0) finish(state);
}

void CheckpointManager::finish(GlobalState& state) {
  if (!pending_) return;
  const std::unique_ptr<PendingSave> save = std::move(pending_);
  save->finish();
  last_ = save->iteration();
  state.say(fmt::format(" saved iteration {} to {} in {:.2f} s", last_, save->root().string(), seconds()));
  if (!config_.async_save) tell_progress(state);
  nn::agree(state.mesh->world, state.device, [&] {
    if (state.mesh->world.rank() != 0) return;
    if (state.progress && config_.async_save) state.progress->saved_in_background(last_);
    for (const Path& folder : remove_old_iterations(save->root(), last_, config_.most_recent_k.value_or(-1),
                                                    config_.save_retain_interval))
      state.say(fmt::format(" removed {}", folder.string()));
  });
}

}  // namespace viaduct::training
