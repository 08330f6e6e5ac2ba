// From a configuration to everything that a run has: the ranks' layout, the model with its first values, optimizer,
// schedule and log.
#pragma once

#include <functional>
#include <memory>

#include "viaduct/parallel/world.h"
#include "viaduct/text/tokenizer.h"
#include "viaduct/training/state.h"

namespace viaduct::training {

/// What setup needs besides.
struct SetupOptions {
  /// Lines of the console; called on the first rank. None: nothing is printed.
  std::function<void(const std::string& line)> print;
  Progress* progress = nullptr;  // of loading weights, on the first rank
};

/// Finalizes the configuration for the world, says what that changed, and makes the run's parts. A run
/// goes on from checkpoint.load where that holds a checkpoint (weights, optimizer, schedule, random states,
/// samples); else weights come from checkpoint.pretrained_checkpoint (a Megatron folder, an iter_ folder, a Hugging
/// Face folder or a name on the hub), else from initialize_weights. Collective. UserError before any weight is made
/// or read for whatever does not fit.
std::unique_ptr<GlobalState> setup(config::ConfigContainer config, parallel::ProcessWorld& world,
                                   const SetupOptions& options = {});

/// A model without a vocabulary size, or with tokenizer.use_tokenizer_vocab_size any model, gets the tokenizer's,
/// padded so that tensor-parallel ranks can share it; another's must hold the tokenizer's tokens. UserError when it
/// does not, or when there is neither
/// (`tokenizer`: null).
void settle_vocabulary(config::ConfigContainer& config, const text::Tokenizer* tokenizer);

/// The tokenizer that the section names; null where it names none.
std::shared_ptr<const text::Tokenizer> open_tokenizer(const config::TokenizerConfig& config);

}  // namespace viaduct::training
