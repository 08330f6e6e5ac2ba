// Timers: how long named parts of a run take, on every rank (upstream's Timers).
#pragma once

#include <c10/core/Device.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <exception>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/parallel/group.h"

namespace viaduct::parallel {

/// What is told of the ranks' times.
enum class TimingOption {
  kMax,     // the slowest rank's
  kMinMax,  // the fastest and the slowest rank's
  kAll,     // every rank's
};
/// "max", "minmax", "all"; UserError for another word.
TimingOption timing_option_named(std::string_view name);

/// Who asks for times. Each is told what was measured since it asked last.
enum class TimesReader { kConsole, kTensorBoard };

/// Times by name. A timer has a level, and only those up to the run's are measured: starting and stopping others
/// costs nothing. On a GPU a measured start or stop waits for what the device was given. Ranks may lack timers that
/// others have.
class Timers {
 public:
  /// `log_level`: -1 for no timer at all, 0 for those of a whole run, 1 for parts of an iteration, 2 for parts of a
  /// micro-batch. `world`: the ranks whose times are compared. `device`: what is waited for.
  Timers(int64_t log_level, TimingOption option, Group world, c10::Device device);

  /// Is a timer of this level measured?
  bool measures(int64_t level) const { return level <= log_level_; }
  /// Begins a part. `barrier`: once all ranks are here; collective where the level is measured.
  void start(std::string_view name, int64_t level, bool barrier = false);
  /// Ends it, and adds its time to that of earlier ones. Nothing where start() was of a level that is not measured.
  void stop(std::string_view name, bool barrier = false);
  /// Ends it without a time: an error came between.
  void abandon(std::string_view name) noexcept;
  /// An iteration ended: times by iteration are divided by how many there were.
  void end_iteration();

  /// Upstream's lines about these timers, in milliseconds, in this order:
  ///     (min, max) time across ranks (ms):
  ///         forward-backward ...............................: (12.34, 12.50)
  /// Timers that no rank has measured since the last time are left out; nothing when that are all. `by_iteration`:
  /// times are divided by the iterations since then. Collective; the same on all ranks.
  std::optional<std::string> lines(std::span<const std::string_view> names, bool by_iteration);
  /// For TensorBoard: seconds of the slowest rank by iteration, of those that were measured. Collective.
  std::map<std::string, double> slowest(std::span<const std::string_view> names);

 private:
  using Clock = std::chrono::steady_clock;
  struct Timer {
    std::array<double, 2> seconds{};  // by TimesReader
    std::optional<Clock::time_point> begin;
  };
  Clock::time_point now() const;
  // [ranks * names] seconds, those of a rank together; this rank's begin anew.
  std::vector<double> take(std::span<const std::string_view> names, TimesReader reader, bool by_iteration);

  int64_t log_level_;
  TimingOption option_;
  Group world_;
  c10::Device device_;
  std::map<std::string, Timer, std::less<>> timers_;
  std::array<int64_t, 2> iterations_{};  // by TimesReader
};

/// A part that lasts as long as this lives. Null timers: nothing. An error that passes by leaves no time.
class Timing {
 public:
  /// Timers::start.
  Timing(Timers* timers, std::string_view name, int64_t level, bool barrier = false)
      : timers_(timers && timers->measures(level) ? timers : nullptr), name_(name) {
    if (timers_) timers_->start(name_, level, barrier);
  }
  // What the wait for a device throws is the run's error.
  ~Timing() noexcept(false) {
    if (!timers_) return;
    std::uncaught_exceptions() > errors_ ? timers_->abandon(name_) : timers_->stop(name_);
  }
  Timing(const Timing&) = delete;
  Timing& operator=(const Timing&) = delete;

 private:
  Timers* timers_;
  std::string_view name_;
  int errors_ = std::uncaught_exceptions();
};

}  // namespace viaduct::parallel
