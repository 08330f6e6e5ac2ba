// pretrain(): a whole run, from its configuration to its last evaluation.
#pragma once

#include "viaduct/training/setup.h"
#include "viaduct/training/train.h"

namespace viaduct::training {

/// setup, the datasets of the section dataset, train, and an evaluation of the test set. Collective.
Ended pretrain(config::ConfigContainer config, parallel::ProcessWorld& world,
               const ForwardStep& forward_step = gpt_forward_step, const Callbacks& callbacks = {},
               const SetupOptions& options = {});

}  // namespace viaduct::training
