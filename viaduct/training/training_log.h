// TrainingLog: what a run says of itself. A line an interval on the console with upstream's fields, TensorBoard's
// scalars by upstream's tags, and one JSON object a line.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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
  std::vector<std::pair<std::string, double>> memory;  // of the rank that has most; where asked for
  std::optional<double> decoupled_lr;                  // of the embedding and the output layer
  int64_t skipped_samples = 0;                         // of the run: iterations_to_skip
};

/// What the log must know of the run.
struct TrainingLogOptions {
  int64_t train_iterations = 0;
  int64_t log_interval = 100;
  int64_t tensorboard_log_interval = 1;
  std::optional<Path> tensorboard_dir;
  std::optional<Path> json_lines;  // appended to
  double flops_per_sample = 0;     // of a training step
  int64_t tokens_per_sample = 0;
  int64_t micro_batch_size = 1;
  int world_size = 1;
  bool log_throughput = false;  // on the console
  bool log_loss_scale = true;
  bool log_throughput_to_tensorboard = false;
  int64_t throughput_window_size = 100;  // iterations
  bool log_world_size_to_tensorboard = false;
  bool log_runtime_to_tensorboard = false;
  std::string runtime_time_unit = "hours";
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
  void write_json(const IterationReport& report, double seconds);
  void write_scalars(const IterationReport& report, double seconds);
  // Batches, samples and tokens a second over the last iterations.
  void write_throughput(const IterationReport& report);
  // How long the run takes.
  void write_runtime(const IterationReport& report);

  TrainingLogOptions options_;
  std::unique_ptr<formats::EventWriter> events_;
  std::optional<AppendFile> json_;
  std::map<std::string, double> sums_;  // of losses since the last line
  int64_t counted_ = 0, iterations_ = 0, skipped_ = 0, nan_ = 0;
  Clock::time_point begin_ = Clock::now(), line_begin_ = begin_, iteration_begin_ = begin_, pause_begin_;
  struct Passed {
    Clock::time_point end;
    int64_t consumed_samples;
  };
  std::deque<Passed> window_;   // the last throughput_window_size iterations
  double line_samples_ = 0;     // since the last line
  int64_t job_iterations_ = 0;  // since this began
  double runtime_seconds_ = 0;  // of options_.runtime_time_unit
};

}  // namespace viaduct::training
