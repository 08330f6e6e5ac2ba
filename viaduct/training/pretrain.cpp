#include "viaduct/training/pretrain.h"

#include "viaduct/training/pretrain_data.h"

namespace viaduct::training {

Ended pretrain(config::ConfigContainer config, parallel::ProcessWorld& world, const ForwardStep& forward_step,
               const Callbacks& callbacks, const SetupOptions& options) {
  const auto state = setup(std::move(config), world, options);
  const PretrainData data(*state, open_tokenizer(state->cfg.tokenizer).get());
  Ended ended = Ended::kFinished;
  if (!state->cfg.train.skip_train.value_or(false)) {
    const auto batches = data.train(*state);
    TrainData parts;
    parts.train = batches.get();
    if (data.validation(*state)) parts.validation = [&] { return data.validation(*state); };
    ended = train(*state, forward_step, parts, callbacks);
  }
  const int64_t iterations = state->cfg.validation.eval_iters.value_or(0);
  if (const auto batches = data.test(*state); batches && iterations > 0)
    evaluate_and_print_results(*state, "test", forward_step, *batches, iterations, callbacks);
  return ended;
}

}  // namespace viaduct::training
