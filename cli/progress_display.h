// Progress on stderr: a bar on a terminal, now and then a line elsewhere.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>

#include "viaduct/core/progress.h"

namespace viaduct::cli {

class ProgressDisplay : public Progress {
 public:
  ProgressDisplay();
  ~ProgressDisplay() override;
  void begin(std::string_view what, uint64_t total) override;
  void advance(uint64_t bytes) override;
  void end() override;
  /// True after Ctrl-C.
  bool cancelled() override;

 private:
  using Clock = std::chrono::steady_clock;
  void draw_bar(uint64_t done, double seconds);
  void print_line(uint64_t done, double seconds);
  void clear_bar();

  const bool terminal_;
  std::mutex mutex_;
  std::string what_;
  uint64_t total_ = 0;
  std::atomic<uint64_t> done_{0};
  Clock::time_point start_;
  std::atomic<int64_t> next_look_ns_{0};  // since start_: when the next thread that advances may draw
  double last_line_ = 0;                  // seconds since start_
  uint64_t last_line_done_ = 0;
  bool bar_drawn_ = false;
};

}  // namespace viaduct::cli
