#include "viaduct/training/pretrain.h"

#include "viaduct/training/pretrain_data.h"

namespace viaduct::training {

Ended pretrain(config::ConfigContainer config, parallel::ProcessWorld& world, const ForwardStep& forward_step,
               const Callbacks& callbacks, const SetupOptions& options) {
  const auto state = setup(std::move(config), world, options);
  state->timers->start(kDataSetup, 0, /*barrier=*/true);
  const PretrainData data(*state, open_tokenizer(state->cfg.tokenizer).get());
  state->timers->stop(kDataSetup);
  return train_and_test(*state, forward_step, data, callbacks);
}

}  // namespace viaduct::training
