// Long work behind Python calls: without the GIL, with progress, and stopped by Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <chrono>
#include <future>
#include <mutex>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/core/progress.h"

namespace viaduct::python {

/// What the working thread says of itself, to be asked from Python's thread.
class CallProgress : public Progress {
 public:
  void begin(std::string_view what, uint64_t total) override {
    const std::lock_guard lock(mutex_);
    what_ = what;
    total_ = total;
    done_ = 0;
  }
  void advance(uint64_t bytes) override { done_ += bytes; }
  void end() override { begin("", 0); }
  bool cancelled() override { return stopped_; }

  void stop() { stopped_ = true; }
  /// Calls report(what, bytes done, bytes in all); nothing is going on while `what` is empty.
  void tell(const nanobind::object& report) const {
    std::string what;
    uint64_t total = 0;
    {
      const std::lock_guard lock(mutex_);
      what = what_;
      total = total_;
    }
    report(what, done_.load(), total);
  }

 private:
  mutable std::mutex mutex_;
  std::string what_;
  uint64_t total_ = 0;
  std::atomic<uint64_t> done_ = 0;
  std::atomic<bool> stopped_ = false;
};

/// Runs `work(Progress&)` on a thread without the GIL, and calls `report` (None: nobody) now and then. Signals are
/// only handled on Python's own thread, which looks for them here: after Ctrl-C the work is stopped, and
/// KeyboardInterrupt raised once nothing of it runs.
template <class F>
auto interruptible(const nanobind::object& report, F work) {
  CallProgress progress;
  auto result = std::async(std::launch::async, [&] { return work(progress); });
  bool raised = false;
  for (bool ready = false; !ready;) {
    {
      const nanobind::gil_scoped_release release;
      ready = result.wait_for(std::chrono::milliseconds(50)) == std::future_status::ready;
    }
    if (raised) continue;
    if (PyErr_CheckSignals() != 0) raised = true;
    if (!raised && !ready && !report.is_none()) {
      try {
        progress.tell(report);
      } catch (nanobind::python_error& error) {
        error.restore();
        raised = true;
      }
    }
    if (raised) progress.stop();
  }
  if (raised) {
    try {
      result.get();
    } catch (const Error&) {  // Interrupted, or what stopped it first: Python's own exception is pending
    }
    nanobind::raise_python_error();
  }
  return result.get();
}

}  // namespace viaduct::python
