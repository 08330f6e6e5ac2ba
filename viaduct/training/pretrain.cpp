#include "viaduct/training/pretrain.h"

#include "viaduct/training/pretrain_data.h"

namespace viaduct::training {

Ended pretrain(config::ConfigContainer config, parallel::ProcessWorld& world, const ForwardStep& forward_step,
               const Callbacks& callbacks, const SetupOptions& options) {
  const auto state = setup(std::move(config), world, options);
  const PretrainData data(*state, open_tokenizer(state->cfg.tokenizer).get());
  return train_and_test(*state, forward_step, data, callbacks);
}

}  // namespace viaduct::training
