#include "cli/progress_display.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "cli/interrupt.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

constexpr int64_t kBarInterval = 100'000'000;  // nanoseconds
constexpr int64_t kLineInterval = 1'000'000'000;

double rate(uint64_t done, double seconds) { return static_cast<double>(done) / std::max(seconds, 1e-3); }

}  // namespace

ProgressDisplay::ProgressDisplay() : terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressDisplay::~ProgressDisplay() { clear_bar(); }

void ProgressDisplay::begin(std::string_view what, uint64_t total) {
  const std::lock_guard lock(mutex_);
  clear_bar();
  what_ = what;
  total_ = total;
  done_ = 0;
  start_ = Clock::now();
  last_line_ = 0;
  last_line_done_ = 0;
  next_look_ns_ = terminal_ ? kBarInterval : kLineInterval;
}

void ProgressDisplay::advance(uint64_t bytes) {
  const uint64_t done = done_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  const int64_t now = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count();
  int64_t due = next_look_ns_.load(std::memory_order_relaxed);
  if (now < due || !next_look_ns_.compare_exchange_strong(due, now + (terminal_ ? kBarInterval : kLineInterval)))
    return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;
  const double seconds = static_cast<double>(now) * 1e-9;
  if (terminal_) {
    draw_bar(done, seconds);
  } else if (seconds >= last_line_ + 10 || (seconds >= last_line_ + 2 && (done - last_line_done_) * 10 >= total_)) {
    print_line(done, seconds);
    last_line_ = seconds;
    last_line_done_ = done;
  }
}

void ProgressDisplay::end() {
  const std::lock_guard lock(mutex_);
  clear_bar();
}

bool ProgressDisplay::cancelled() { return interrupt_signal() != 0; }

void ProgressDisplay::draw_bar(uint64_t done, double seconds) {
  constexpr int kWidth = 24;
  const double share = total_ ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total_)) : 1.0;
  const int filled = static_cast<int>(share * kWidth);
  const std::string text = fmt::format(
      "\r\033[K{:<10} [{}{}] {:3.0f} %  {} of {}  {:.2f} GB/s  {} left", what_, std::string(filled, '='),
      std::string(kWidth - filled, ' '), share * 100, human_bytes(done), human_bytes(total_),
      rate(done, seconds) * 1e-9,
      human_seconds(static_cast<double>(total_ - std::min(done, total_)) / std::max(rate(done, seconds), 1.0)));
  std::fputs(text.c_str(), stderr);
  bar_drawn_ = true;
}

void ProgressDisplay::print_line(uint64_t done, double seconds) {
  const double percent = total_ ? 100.0 * static_cast<double>(done) / static_cast<double>(total_) : 100.0;
  fmt::print(stderr, "viaduct: {}: {:.0f} % ({} of {}), {:.2f} GB/s\n", what_, percent, human_bytes(done),
             human_bytes(total_), rate(done, seconds) * 1e-9);
}

void ProgressDisplay::clear_bar() {
  if (bar_drawn_) std::fputs("\r\033[K", stderr);
  bar_drawn_ = false;
}

}  // namespace viaduct::cli
