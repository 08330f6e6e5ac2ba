// RankWatch: signs of life of the ranks of a run, so that an operation that fails can say who is to blame.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

/// Another rank is gone, failed or did not come. The message names the ranks, the group and the operation.
class RankError : public UserError {
 public:
  using UserError::UserError;
};

/// How often a rank gives a sign of life, and when silence means that it is gone.
struct WatchTimes {
  /// Between two signs of life.
  std::chrono::milliseconds beat{1000};
  /// An operation failed: a rank that gives no sign for this long from then on is the one that is gone.
  std::chrono::milliseconds suspect{5000};
  /// Nothing failed yet: a rank that is silent for this long is taken for gone.
  std::chrono::milliseconds silence{60000};
};

/// Writes this rank's signs of life into the store that all ranks share and reads those of others. A thread of its
/// own does so, with a connection of its own: a rank that computes, or waits for others, lives.
///
/// Keys: who/RANK (host and process), beat/RANK (a counter and what the rank does), end/RANK (it ended, and why),
/// failure (what was first found to be wrong; read by all).
class RankWatch {
 public:
  /// `store` is not used by anybody else. `store_host` names who serves it, for errors.
  RankWatch(c10::intrusive_ptr<c10d::Store> store, int rank, int world_size, std::string store_host,
            const WatchTimes& times);
  /// Stops the thread; others then see a rank that is silent, unless end() said that it ended.
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  /// Waits until all ranks are here, then begins to give signs of life. RankError that names those who did not come
  /// within `timeout`; UserError when two processes have the same rank or ranks disagree about their number.
  void meet(std::chrono::milliseconds timeout);

  /// What this rank does from now on ("all_reduce of group "tensor parallel""); "" for its own work.
  void doing(std::string activity);
  /// RankError if a rank is known to be gone.
  void check(std::string_view activity) const;
  /// Is one?
  bool failed() const { return failed_; }
  /// An operation among `ranks` failed with `cause`: finds out who is to blame (up to WatchTimes::suspect), tells
  /// the others and throws a RankError.
  [[noreturn]] void fail(const std::string& activity, const std::vector<int>& ranks, const std::string& cause);
  /// `action` is called, once and with what is wrong, by the watch's thread when it learns that a rank is gone: for
  /// what would wait for ever. In the order of the calls.
  void on_failure(std::function<void(const std::string& failure)> action);

  /// This rank ends: `reason` is empty, or why it failed. Stops the signs of life.
  void end(const std::string& reason);
  /// Waits until all other ranks ended too or are gone: before the one that serves the store stops. False when some
  /// are neither after `timeout`.
  bool wait_for_ends(std::chrono::milliseconds timeout);

 private:
  void meet_in_store(std::chrono::milliseconds timeout);
  void run();
  void beat();
  void look_at_neighbour();
  bool set_failure(const std::string& failure);
  void act_on(const std::string& failure);
  std::string read(const std::string& key);
  std::string who(int rank);
  std::string blame(const std::vector<int>& ranks);
  void stop();

  c10::intrusive_ptr<c10d::Store> store_;
  const int rank_;
  const int world_size_;
  const std::string store_host_;
  const WatchTimes times_;

  mutable std::mutex mutex_;  // of what follows
  std::string activity_;
  std::string failure_;
  std::vector<std::function<void(const std::string&)>> actions_;
  std::condition_variable wake_;
  bool stopping_ = false;

  std::atomic<bool> failed_ = false;
  int64_t beats_ = 0;
  std::string neighbour_sign_;
  std::chrono::steady_clock::time_point neighbour_changed_;
  std::thread thread_;
};

/// The text of an exception of libtorch or Gloo in one line, without stack traces and source places.
std::string first_line(const std::exception& error);

}  // namespace viaduct::parallel
