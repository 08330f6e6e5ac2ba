// How long work tells its caller how far it is. Library code reports; only cli/ prints.
#pragma once

#include <cstdint>
#include <string_view>

namespace viaduct {

/// Called from worker threads; must be thread-safe and quick.
class Progress {
 public:
  virtual ~Progress() = default;
  /// `total` bytes of work called `what` begin.
  virtual void begin(std::string_view what, uint64_t total) = 0;
  /// So many bytes more are done.
  virtual void advance(uint64_t bytes) = 0;
  /// The work that began is done; not called when it fails.
  virtual void end() = 0;
  /// True when the work should stop soon (Ctrl-C): it then throws Interrupted and leaves no output behind.
  virtual bool cancelled() { return false; }
};

}  // namespace viaduct
