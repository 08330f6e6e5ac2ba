#include "cli/train/ranks.h"

#include <cstdio>

#include "cli/command.h"
#include "cli/interrupt.h"

namespace viaduct::cli {

Ranks::Ranks(const RankOptions& options)
    : world_({.device = options.cpu ? parallel::DeviceChoice::kCpu : parallel::DeviceChoice::kAuto}),
      mesh_(world_.mesh(options.sizes)) {
  if (!first()) return;
  catch_interrupts();
  progress_ = std::make_unique<ProgressDisplay>();
}

void Ranks::say(const std::string& line) const {
  if (first()) fmt::print(stderr, "{}\n", line);
}

int run_ranks(const RankOptions& options, const std::function<int(Ranks&)>& command) {
  Ranks ranks(options);
  try {
    return command(ranks);
  } catch (const nn::RankFailed&) {
    if (ranks.first()) throw;
    return kUserMistake;  // the rank that failed and the first one tell why
  }
}

}  // namespace viaduct::cli
