// finetune(): a whole run on instructions or conversations, of all weights or of an adapter.
#pragma once

#include "viaduct/core/file.h"
#include "viaduct/training/setup.h"
#include "viaduct/training/train.h"

namespace viaduct::training {

/// UserError for a configuration without what fine-tuning needs: weights to begin with, and instruction data.
void check_finetuning(const config::ConfigContainer& config);

/// setup, the data of the section dataset, train, and an evaluation of the test set. With a section peft only
/// adapters are trained, and `adapter_folder`, unless empty, is the PEFT folder that they are written to at the
/// end. UserError as check_finetuning. Collective.
Ended finetune(config::ConfigContainer config, parallel::ProcessWorld& world,
               const ForwardStep& forward_step = gpt_forward_step, const Callbacks& callbacks = {},
               const SetupOptions& options = {}, const Path& adapter_folder = {});

}  // namespace viaduct::training
