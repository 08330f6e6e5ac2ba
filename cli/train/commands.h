// The commands of viaduct-train. Both programs know their options: `viaduct` shows and checks them and hands the
// command over (hand_over.h), `viaduct-train` runs it. A command is a header with its options and a file with its
// run(); here it has one line.
#pragma once

#include <tuple>

#include "cli/command.h"
#include "cli/train/chat.h"
#include "cli/train/compare.h"
#include "cli/train/finetune.h"
#include "cli/train/generate.h"
#include "cli/train/logprobs.h"
#include "cli/train/preprocess_data.h"
#include "cli/train/pretrain.h"
#include "cli/train/roundtrip.h"

namespace viaduct::cli {

using TrainCommands = std::tuple<GenerateFlags, ChatFlags, CompareFlags, LogprobsFlags, RoundtripOptions,
                                 PreprocessDataOptions, PretrainFlags, FinetuneFlags>;

/// Adds all of them, in their order. `run` is called with the options of the one that the command line chose and
/// returns the exit code.
template <class Run>
void add_train_commands(CLI::App& program, Action& action, Run run) {
  const auto add = [&]<class Options>(const Options*) {
    CLI::App* command = program.add_subcommand(Options::kName, Options::kText);
    auto options = std::make_shared<Options>();
    options->add_to(*command);
    command->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
  };
  const auto each = [&]<class... Options>(const std::tuple<Options...>*) {
    (add(static_cast<const Options*>(nullptr)), ...);
  };
  each(static_cast<const TrainCommands*>(nullptr));
}

}  // namespace viaduct::cli
