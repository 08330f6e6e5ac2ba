#include "viaduct/parallel/timers.h"

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

TimingOption timing_option_named(std::string_view name) {
  if (name == "max") return TimingOption::kMax;
  if (name == "minmax") return TimingOption::kMinMax;
  VIADUCT_USER_CHECK(name == "all", "'{}' is none of max, minmax, all", name);
  return TimingOption::kAll;
}

Timers::Timers(int64_t log_level, TimingOption option, Group world, c10::Device device)
    : log_level_(log_level), option_(option), world_(std::move(world)), device_(device) {}

Timers::Clock::time_point Timers::now() const {
  if (device_.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device_.index());
  return Clock::now();
}

void Timers::start(std::string_view name, int64_t level, bool barrier) {
  if (!measures(level)) return;
  auto it = timers_.find(name);
  if (it == timers_.end()) it = timers_.emplace(name, Timer{}).first;
  VIADUCT_CHECK(!it->second.begin, "the timer {} runs already", name);
  if (barrier) world_.barrier();
  it->second.begin = now();
}

void Timers::stop(std::string_view name, bool barrier) {
  const auto it = timers_.find(name);
  if (it == timers_.end()) return;
  VIADUCT_CHECK(it->second.begin.has_value(), "the timer {} does not run", name);
  if (barrier) world_.barrier();
  const double spent = std::chrono::duration<double>(now() - *it->second.begin).count();
  it->second.begin.reset();
  for (double& seconds : it->second.seconds) seconds += spent;
}

void Timers::abandon(std::string_view name) noexcept {
  if (const auto it = timers_.find(name); it != timers_.end()) it->second.begin.reset();
}

void Timers::end_iteration() {
  for (int64_t& count : iterations_) ++count;
}

std::vector<double> Timers::take(std::span<const std::string_view> names, TimesReader reader, bool by_iteration) {
  const auto who = static_cast<size_t>(reader);
  const auto divisor = by_iteration ? static_cast<double>(std::max<int64_t>(iterations_[who], 1)) : 1.0;
  if (by_iteration) iterations_[who] = 0;
  std::vector<double> own;
  for (const std::string_view name : names) {
    const auto it = timers_.find(name);
    own.push_back(it == timers_.end() ? 0 : std::exchange(it->second.seconds[who], 0) / divisor);
  }
  const at::Tensor mine = at::tensor(own, at::kDouble).to(device_);
  const at::Tensor all = world_.all_gather(mine, 0).cpu();
  const auto* begin = all.const_data_ptr<double>();
  return {begin, begin + all.numel()};
}

std::optional<std::string> Timers::lines(std::span<const std::string_view> names, bool by_iteration) {
  // No rank has measured anything: the level is the same on all.
  if (names.empty() || !measures(0)) return std::nullopt;
  const std::vector<double> all = take(names, TimesReader::kConsole, by_iteration);
  const auto ranks = static_cast<size_t>(world_.size());
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    double least = 0, most = 0;  // of the ranks that have it
    std::string each;
    for (size_t rank = 0; rank < ranks; ++rank) {
      const double milliseconds = all[rank * names.size() + i] * 1e3;
      if (milliseconds <= 0) continue;
      least = most == 0 ? milliseconds : std::min(least, milliseconds);
      most = std::max(most, milliseconds);
      each += fmt::format("\n     rank {:2}: {:.2f}", rank, milliseconds);
    }
    if (most == 0) continue;
    const std::string dotted = fmt::format("\n    {:.<48}: ", std::string(names[i]) + ' ');
    switch (option_) {
      case TimingOption::kMax: text += fmt::format("{}{:.2f}", dotted, most); break;
      case TimingOption::kMinMax: text += fmt::format("{}({:.2f}, {:.2f})", dotted, least, most); break;
      case TimingOption::kAll: text += fmt::format("\n  {}:{}", names[i], each); break;
    }
  }
  if (text.empty()) return std::nullopt;
  switch (option_) {
    case TimingOption::kMax: return "max time across ranks (ms):" + text;
    case TimingOption::kMinMax: return "(min, max) time across ranks (ms):" + text;
    default: return "times across ranks (ms):" + text;
  }
}

std::map<std::string, double> Timers::slowest(std::span<const std::string_view> names) {
  std::map<std::string, double> result;
  if (names.empty() || !measures(0)) return result;
  const std::vector<double> all = take(names, TimesReader::kTensorBoard, true);
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i] <= 0) continue;
    double& most = result[std::string(names[i % names.size()])];
    most = std::max(most, all[i]);
  }
  return result;
}

}  // namespace viaduct::parallel
