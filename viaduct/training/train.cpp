#include "viaduct/training/train.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>

#include "viaduct/core/error.h"
#include "viaduct/nn/gradients.h"
#include "viaduct/training/forward_backward.h"
#include "viaduct/training/options.h"

namespace viaduct::training {

namespace {

// Raised by the signal that asks the run to save and end; the loop looks at it between iterations.
std::atomic<int> signalled{0};

// While it lives, a signal raises the flag instead of ending the process.
class SignalFlag {
 public:
  explicit SignalFlag(int signal) : signal_(signal) {
    signalled = 0;
    struct sigaction action {};
    action.sa_handler = [](int number) { signalled = number; };
    ::sigaction(signal_, &action, &before_);
  }
  ~SignalFlag() { ::sigaction(signal_, &before_, nullptr); }
  SignalFlag(const SignalFlag&) = delete;
  SignalFlag& operator=(const SignalFlag&) = delete;

 private:
  int signal_;
  struct sigaction before_ {};
};

// Is it so on any rank?
bool on_any_rank(const GlobalState& state, bool here) {
  at::Tensor flag = at::full({1}, here ? 1 : 0, at::TensorOptions().dtype(at::kInt).device(state.device));
  state.mesh->world.all_reduce(flag, parallel::Reduce::kMax);
  return flag.item<int>() != 0;
}

bool is_nan(const std::map<std::string, double>& losses) {
  return std::any_of(losses.begin(), losses.end(), [](const auto& loss) { return !std::isfinite(loss.second); });
}

// The parts of an iteration that are measured, in upstream's order, up to a level.
std::span<const std::string_view> iteration_timers(const parallel::Timers& timers) {
  static constexpr std::string_view kNames[] = {"forward-backward", "all-grads-sync", "params-all-gather",
                                                "optimizer-unscale-and-check-inf", "optimizer-inner-step",
                                                "optimizer-copy-main-to-model-params", "optimizer",
                                                // of level 2
                                                "batch-generator", "forward-compute", "backward-compute",
                                                "forward-recv", "forward-send", "backward-recv", "backward-send"};
  constexpr size_t kLevelOne = 7;
  const std::span<const std::string_view> all = kNames;
  return timers.measures(2) ? all : all.first(timers.measures(1) ? kLevelOne : 0);
}

// Events may look at all that there is.
template <class Event, class... More>
void call(const Event& event, GlobalState& state, const More&... more) {
  if (!event) return;
  state.optimizer->finish_gathering();
  event(state, more...);
}

// The norm of all parameters.
double params_norm(const GlobalState& state) {
  state.optimizer->finish_gathering();
  at::Tensor squares = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(state.device));
  // Each of the ranks that hold a copy adds its share.
  for (const optim::ModelParameter& parameter : state.optimizer->parameters())
    if (parameter.counted)
      squares += parameter.tensor.detach().norm(2, at::kDouble).square() /
                 (parameter.expert ? state.mesh->edp : state.mesh->dp_cp).size();
  state.mesh->world.all_reduce(squares);
  return std::sqrt(squares.item<double>());
}

// Ends the run for numbers that are the same on all ranks. What is being saved meanwhile is put into its place
// first.
[[noreturn]] void end_with(GlobalState& state, std::string_view what, std::string_view fix, int64_t samples) {
  if (state.checkpoints) state.checkpoints->finish(state);
  const TrainState& now = state.train_state;
  throw UserError(fmt::format("iteration {}: {} (samples {} to {}). {}", now.step + 1, what,
                              now.consumed_train_samples, now.consumed_train_samples + samples - 1, fix));
}

// What is done while it lives is no part of an iteration's time.
class LogPause {
 public:
  explicit LogPause(const GlobalState& state) : log_(state.log.get()) {
    if (log_) log_->pause();
  }
  ~LogPause() {
    if (log_) log_->resume();
  }
  LogPause(const LogPause&) = delete;
  LogPause& operator=(const LogPause&) = delete;

 private:
  TrainingLog* log_;
};

void save_checkpoint(GlobalState& state) {
  state.timers->start("save-checkpoint", 0, /*barrier=*/true);
  state.checkpoints->save(state);
  state.timers->stop("save-checkpoint", /*barrier=*/true);
  state.say_times({"save-checkpoint"});
}

// A loss that is far above earlier ones is told; whether it is a fault or the data, nobody knows here.
void warn_of_spike(GlobalState& state, const std::map<std::string, double>& losses) {
  if (!state.cfg.rerun_state_machine.check_for_spiky_loss || losses.empty()) return;
  const auto& [name, loss] = *losses.begin();
  if (state.spikes.is_spike(loss))
    state.say(
        fmt::format("warning: iteration {}: {} is {:.6E}, {:.1f} times the largest of the first 100, {:.6E} "
                    "(rerun_state_machine.spiky_loss_factor is {})",
                    state.train_state.step + 1, name, loss, loss / state.spikes.largest(), state.spikes.largest(),
                    double{state.cfg.rerun_state_machine.spiky_loss_factor}));
}

// What is said of an iteration. Collective.
void log_iteration(GlobalState& state, const IterationReport& report) {
  const config::LoggerConfig& logger = state.cfg.logger;
  if (state.log) state.log->add(report);
  const auto every = [&](int64_t interval) { return report.iteration % interval == 0; };
  // Once when the optimizer has its state: in the second iteration at the latest.
  const bool first = every(logger.log_interval) && report.iteration > state.first_iteration && !state.memory_told;
  if (first || (logger.log_memory_interval && every(*logger.log_memory_interval))) {
    state.memory_told = true;
    std::string line = fmt::format("(after {} iterations) memory (GB)", report.iteration);
    for (const auto& [name, value] : state.memory->largest(state.mesh->world))
      line += fmt::format(" | {}: {}", name, value);
    state.say(line);
  }
  if (every(logger.log_interval))
    if (const auto lines = state.timers->lines(iteration_timers(*state.timers), /*by_iteration=*/true))
      state.say(*lines);
}

// Passes over the micro-batches of an iteration that is to be skipped.
void skip_iteration(GlobalState& state, MicroBatches& batches) {
  const topology::BatchSizes sizes = state.batches->at(state.train_state.consumed_train_samples);
  for (int64_t i = 0; i < sizes.num_microbatches; ++i) batches.next();
  ++state.train_state.step;
  state.train_state.consumed_train_samples += sizes.running;
  state.train_state.skipped_train_samples += sizes.running;
}

}  // namespace

IterationReport train_step(GlobalState& state, const ForwardStep& forward_step, MicroBatches& batches) {
  const topology::BatchSizes sizes = state.batches->at(state.train_state.consumed_train_samples);
  optim::Optimizer& optimizer = *state.optimizer;
  IterationReport report;
  report.lr = state.scheduler->lr();
  report.weight_decay = state.scheduler->weight_decay();
  report.loss_scale = optimizer.loss_scale();
  report.global_batch_size = sizes.running;
  const bool per_token = state.cfg.model.calculate_per_token_loss;
  parallel::Timers& timers = *state.timers;
  const bool barrier = state.cfg.model.barrier_with_L1_time;
  // How many tokens count is known only after the last micro-batch.
  optimizer.begin_iteration(sizes.num_microbatches, per_token ? 1 : state.mesh->dp_cp.size());
  timers.start("forward-backward", 1, barrier);
  const ForwardBackwardResult result = forward_backward(
      state.model, forward_step, batches,
      {static_cast<int>(sizes.num_microbatches), false, optimizer.loss_scale(), per_token, &timers});
  timers.stop("forward-backward");
  report.losses = result.losses;
  report.nan = is_nan(result.losses);
  if (report.nan && state.cfg.rerun_state_machine.check_for_nan_in_loss)
    end_with(
        state, "the loss is not finite",
        "Look at these samples and at the learning rate; rerun_state_machine.check_for_nan_in_loss=false goes on "
        "without their update",
        sizes.running);
  warn_of_spike(state, report.losses);
  timers.start("all-grads-sync", 1, barrier);
  optimizer.reduce_gradients(per_token ? std::max(result.num_tokens, 1.0) : 1);
  timers.stop("all-grads-sync");
  timers.start("optimizer", 1, state.cfg.optimizer.barrier_with_L1_time);
  if (const auto decoupled = decoupled_group(state.cfg)) report.decoupled_lr = state.scheduler->lr(*decoupled);
  const optim::StepResult step = optimizer.step({report.lr, report.weight_decay, report.decoupled_lr});
  timers.stop("optimizer");
  timers.end_iteration();
  report.grad_norm = step.grad_norm;
  report.skipped = !step.updated;
  if (state.cfg.logger.log_num_zeros_in_grad) report.num_zeros = step.num_zeros;
  if (!std::isfinite(step.grad_norm) && !optimizer.scaler() && state.cfg.ddp.check_for_nan_in_grad)
    end_with(state, "the gradients are not finite", "ddp.check_for_nan_in_grad=false goes on without their update",
             sizes.running);
  if (step.updated) {
    state.scheduler->step(sizes.running);
    if (state.cfg.model.moe_router_enable_expert_bias)
      nn::update_expert_biases(state.chunks(), *state.context, state.cfg.model.moe_router_bias_update_rate);
  }
  nn::reset_global_losses(state.chunks());
  ++state.train_state.step;
  state.train_state.consumed_train_samples += sizes.running;
  state.train_state.floating_point_operations_so_far += state.flops_per_sample * static_cast<double>(sizes.running);
  report.iteration = state.train_state.step;
  report.consumed_samples = state.train_state.consumed_train_samples;
  report.skipped_samples = state.train_state.skipped_train_samples;
  if (state.cfg.logger.log_params_norm) report.params_norm = params_norm(state);
  const config::LoggerConfig& logger = state.cfg.logger;
  const bool to_tensorboard = report.iteration % logger.tensorboard_log_interval == 0;
  if (logger.log_timers_to_tensorboard && to_tensorboard) report.timers = timers.slowest(iteration_timers(timers));
  if (logger.log_memory_to_tensorboard && to_tensorboard) report.memory = state.memory->largest(state.mesh->world);
  return report;
}

std::map<std::string, double> evaluate(GlobalState& state, const ForwardStep& forward_step, MicroBatches& batches,
                                       int64_t iterations) {
  const config::ValidationConfig& validation = state.cfg.validation;
  const int64_t micro = validation.eval_micro_batch_size.value_or(state.cfg.train.micro_batch_size.value());
  const int64_t global = validation.eval_global_batch_size.value_or(state.batches->final_global_batch_size());
  const auto microbatches = static_cast<int>(global / micro / state.mesh->dp.size());
  state.timers->start("evaluate", 0, /*barrier=*/true);
  std::map<std::string, double> sums;
  for (int64_t i = 0; i < iterations; ++i) {
    for (const auto& [name, loss] :
         forward_backward(state.model, forward_step, batches, {microbatches, true}).losses)
      sums[name] += loss;
    state.train_state.consumed_valid_samples += global;
  }
  for (auto& [name, sum] : sums) sum /= static_cast<double>(iterations);
  state.timers->stop("evaluate");
  state.say_times({"evaluate"});
  return sums;
}

void evaluate_and_print_results(GlobalState& state, const std::string& what, const ForwardStep& forward_step,
                                MicroBatches& batches, int64_t iterations, const Callbacks& callbacks) {
  call(callbacks.on_eval_start, state);
  const std::map<std::string, double> losses = evaluate(state, forward_step, batches, iterations);
  if (state.log) state.log->evaluated(what, state.train_state.step, losses);
  call(callbacks.on_eval_end, state, losses);
}

Ended train(GlobalState& state, const ForwardStep& forward_step, const TrainData& data,
            const Callbacks& callbacks) {
  const config::TrainingConfig& train = state.cfg.train;
  const config::ValidationConfig& validation = state.cfg.validation;
  const auto begin = std::chrono::steady_clock::now();
  std::optional<SignalFlag> flag;
  if (train.exit_signal_handler) flag.emplace(static_cast<int>(train.exit_signal.value.as_int()));
  const auto due = [&](const std::optional<int64_t>& interval) {
    return interval && *interval > 0 && state.train_state.step % *interval == 0;
  };
  call(callbacks.on_train_start, state);
  Ended ended = Ended::kFinished;
  while (state.train_state.step < state.train_iterations) {
    if (std::ranges::find(train.iterations_to_skip, state.train_state.step + 1) != train.iterations_to_skip.end()) {
      skip_iteration(state, *data.train);
      state.say(fmt::format(" iteration {} is skipped (train.iterations_to_skip)", state.train_state.step));
    } else {
      call(callbacks.on_train_step_start, state);
      const IterationReport report = train_step(state, forward_step, *data.train);
      if (!state.cfg.logger.skip_train_metrics_log) log_iteration(state, report);
      call(callbacks.on_train_step_end, state, report);
    }
    if (state.checkpoints) state.checkpoints->poll(state);
    if (data.validation && due(validation.eval_interval) && validation.eval_iters.value_or(0) > 0 &&
        state.train_state.step >= validation.start_eval_at_iter.value_or(0)) {
      const LogPause pause(state);
      evaluate_and_print_results(state, "validation", forward_step, *data.validation(), *validation.eval_iters,
                                 callbacks);
    }
    const double minutes = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / 60;
    if (flag && on_any_rank(state, signalled != 0)) {
      ended = Ended::kExitSignal;
    } else if (train.exit_duration_in_mins &&
               on_any_rank(state, minutes > static_cast<double>(*train.exit_duration_in_mins))) {
      ended = Ended::kExitDuration;
    } else if (due(train.exit_interval)) {
      ended = Ended::kExitInterval;
    }
    const bool last = state.train_state.step >= state.train_iterations;
    if (last || ended != Ended::kFinished || due(state.cfg.checkpoint.save_interval)) {
      const LogPause pause(state);
      if (state.checkpoints) save_checkpoint(state);
      call(callbacks.on_save, state);
    }
    if (ended != Ended::kFinished) break;
  }
  state.optimizer->finish_gathering();
  if (state.checkpoints) state.checkpoints->finish(state);
  if (state.log) state.log->flush();
  call(callbacks.on_train_end, state);
  return ended;
}

Ended train_and_test(GlobalState& state, const ForwardStep& forward_step, const RunData& data,
                     const Callbacks& callbacks) {
  Ended ended = Ended::kFinished;
  if (!state.cfg.train.skip_train.value_or(false)) {
    state.timers->start(kDataSetup, 0, /*barrier=*/true);
    const auto batches = data.train(state);
    TrainData parts;
    parts.train = batches.get();
    if (data.validation(state)) parts.validation = [&] { return data.validation(state); };
    state.timers->stop(kDataSetup);
    state.say_times({kModelSetup, kDataSetup});
    ended = train(state, forward_step, parts, callbacks);
  }
  const int64_t iterations = state.cfg.validation.eval_iters.value_or(0);
  if (const auto batches = data.test(state); batches && iterations > 0)
    evaluate_and_print_results(state, "test", forward_step, *batches, iterations, callbacks);
  return ended;
}

}  // namespace viaduct::training
