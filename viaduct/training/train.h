// The training loop and its parts; each can be called alone.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "viaduct/training/forward_step.h"
#include "viaduct/training/state.h"

namespace viaduct::training {

/// Called by the loop, upstream's events. Each gets the state as it is then.
struct Callbacks {
  /// What is called.
  using Event = std::function<void(GlobalState&)>;
  Event on_train_start;
  Event on_train_step_start;
  std::function<void(GlobalState&, const IterationReport&)> on_train_step_end;
  Event on_eval_start;
  std::function<void(GlobalState&, const std::map<std::string, double>& losses)> on_eval_end;
  Event on_train_end;
  /// A checkpoint is due: step and samples are those that it is to have.
  Event on_save;
};

/// Why train() returned.
enum class Ended {
  kFinished,      // all iterations are done
  kExitInterval,  // train.exit_interval
  kExitDuration,  // train.exit_duration_in_mins
  kExitSignal,    // train.exit_signal, with exit_signal_handler
};

/// One iteration: all micro-batches forward and backward, and an update. Collective.
IterationReport train_step(GlobalState& state, const ForwardStep& forward_step, MicroBatches& batches);

/// Mean losses of `iterations` global batches, without gradients. Collective.
std::map<std::string, double> evaluate(GlobalState& state, const ForwardStep& forward_step, MicroBatches& batches,
                                       int64_t iterations);
/// evaluate, and says it. `what`: "validation", "test".
void evaluate_and_print_results(GlobalState& state, const std::string& what, const ForwardStep& forward_step,
                                MicroBatches& batches, int64_t iterations, const Callbacks& callbacks = {});

/// Where the loop's batches come from. `validation` is called for every evaluation.
struct TrainData {
  MicroBatches* train = nullptr;
  std::function<std::unique_ptr<MicroBatches>()> validation;  // none: there is no evaluation
};

/// What a whole run takes its batches from.
class RunData {
 public:
  virtual ~RunData() = default;
  /// From state.train_state.consumed_train_samples on.
  virtual std::unique_ptr<MicroBatches> train(const GlobalState& state) const = 0;
  /// Of an evaluation; null where there is nothing to evaluate on.
  virtual std::unique_ptr<MicroBatches> validation(const GlobalState& state) const = 0;
  /// Of the evaluation at the end; null likewise.
  virtual std::unique_ptr<MicroBatches> test(const GlobalState& state) const = 0;
};

/// train unless train.skip_train, and an evaluation of the test data. Collective.
Ended train_and_test(GlobalState& state, const ForwardStep& forward_step, const RunData& data,
                     const Callbacks& callbacks = {});

/// From state.train_state on to the end of the run. UserError when a loss is not finite (with
/// rerun_state_machine's check_for_nan_in_loss), naming the iteration and the samples. Collective.
Ended train(GlobalState& state, const ForwardStep& forward_step, const TrainData& data,
            const Callbacks& callbacks = {});

}  // namespace viaduct::training
