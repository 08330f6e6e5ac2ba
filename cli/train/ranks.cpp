#include "cli/train/ranks.h"

#include <ATen/ATen.h>

#include <cstdio>
#include <cstring>

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
  std::optional<std::string> line = first() ? read() : std::nullopt;
  at::Tensor length = at::full({1}, line ? static_cast<int64_t>(line->size()) : -1, at::kLong).to(device());
  mesh_.world.broadcast(length, 0);
  const auto size = length.item<int64_t>();
  if (size < 0) return std::nullopt;
  at::Tensor bytes = at::empty({size}, at::kByte);
  if (first()) std::memcpy(bytes.data_ptr(), line->data(), line->size());
  bytes = bytes.to(device());
  if (size > 0) mesh_.world.broadcast(bytes, 0);
  bytes = bytes.cpu();
  return std::string(static_cast<const char*>(bytes.data_ptr()), static_cast<size_t>(size));
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
