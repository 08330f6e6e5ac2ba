// TrainingLog: what a run says of itself. A line an interval on the console with upstream's fields, TensorBoard's
// scalars by upstream's tags, and one JSON object a line.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "viaduct/core/append_file.h"
#include "viaduct/formats/tfevents.h"

namespace viaduct::training {

/// What one iteration did.
struct IterationReport {
  int64_t iteration = 0;  // counted from 1
  int64_t consumed_samples = 0;
  int64_t global_batch_size = 0;
  double lr = 0;
  double weight_decay = 0;
  std::map<std::string, double> losses;
  double grad_norm = 0;
  std::optional<double> params_norm;
  std::optional<int64_t> num_zeros;
  double loss_scale = 1;
  bool skipped = false;                  // no update: overflow
  bool nan = false;                      // a loss is not finite
  std::map<std::string, double> timers;  // seconds of an iteration's parts, the slowest rank's; where asked for
};

/// What the log must know of the run.
struct TrainingLogOptions {
  int64_t train_iterations = 0;
  int64_t log_interval = 100;
  int64_t tensorboard_log_interval = 1;
  std::optional<Path> tensorboard_dir;
  std::optional<Path> json_lines;  // appended to
  double flops_per_sample = 0;     // of a training step; 0: throughput is not logged
  int world_size = 1;
  bool log_loss_scale = true;
  std::function<void(const std::string& line)> print;  // none: nothing on the console
};

/// Of the rank that logs.
class TrainingLog {
 public:
  /// Creates the folder of event files. SystemError when it cannot.
  explicit TrainingLog(TrainingLogOptions options);
  /// Averages losses over the interval, and says it at its end.
  void add(const IterationReport& report);
  /// Losses of an evaluation; their perplexity is exp(min(20, loss)).
  void evaluated(const std::string& what, int64_t iteration, const std::map<std::string, double>& losses);
  /// What comes until resume() is no part of an iteration's time.
  void pause();
  /// It is again.
  void resume();
  /// A line of its own.
  void say(const std::string& line);
  /// Writes what waits.
  void flush();

 private:
  using Clock = std::chrono::steady_clock;
  void print_line(const IterationReport& report);
  void write_scalars(const IterationReport& report, double seconds);

  TrainingLogOptions options_;
  std::unique_ptr<formats::EventWriter> events_;
  std::optional<AppendFile> json_;
  std::map<std::string, double> sums_;  // of losses since the last line
  int64_t counted_ = 0, iterations_ = 0, skipped_ = 0, nan_ = 0;
  Clock::time_point line_begin_ = Clock::now(), iteration_begin_ = Clock::now(), pause_begin_;
};

}  // namespace viaduct::training
