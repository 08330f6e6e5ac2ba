#include "cli/train/ranks.h"

#include <ATen/ATen.h>

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

std::optional<std::string> Ranks::shared_line(const std::function<std::optional<std::string>()>& read) const {
  if (mesh_.world.alone()) return read();
  // Begins with whether there is a line.
  std::string told;
  if (first())
    if (const std::optional<std::string> line = read()) told = "+" + *line;
  nn::share(mesh_.world, device(), told);
  return told.empty() ? std::nullopt : std::optional(told.substr(1));
}

int Ranks::shared_code(int code) const {
  at::Tensor shared = at::full({1}, code, at::kLong).to(device());
  mesh_.world.broadcast(shared, 0);
  return shared.item<int>();
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
