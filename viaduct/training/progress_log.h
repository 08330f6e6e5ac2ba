// progress.txt beside the checkpoints (logger.log_progress): when jobs of a run began, and how far each save was.
#pragma once

#include <chrono>
#include <string>

#include "viaduct/core/file.h"

namespace viaduct::training {

/// Appends upstream's lines, which Megatron's tools read:
///     2026-01-31 18:05:09 \t Job ID: 4711 \t # GPUs: 8 \t Saved checkpoint \t Iteration: 100 \t Job throughput:
///     ...
/// Of the rank that logs.
class ProgressLog {
 public:
  /// Says that a job starts. `folder`: checkpoint.save, made if it is not there. `flops`: of the run so far, by the
  /// checkpoint that it goes on from. SystemError when the file cannot be written.
  ProgressLog(Path folder, int world_size, double flops);

  /// A checkpoint was saved, or with `background` begun. `flops` and `tokens`: of the run so far. Throughputs are
  /// those of this job and of all jobs since the first with this number of ranks.
  void saving(int64_t iteration, double flops, double tokens, bool background);
  /// One that was begun is whole.
  void saved_in_background(int64_t iteration);

 private:
  using Clock = std::chrono::steady_clock;
  void append(const std::string& text) const;

  Path file_;
  int world_size_;
  double flops_at_start_;
  Clock::time_point start_ = Clock::now();
};

/// When the first of the jobs with so many ranks began, in seconds since 1970, and the operations of the run at
/// that time: of the lines of a progress.txt. Lines that are none of upstream's are passed over, as users write
/// into the file. Zeros when there is no such job.
std::pair<double, double> first_job(std::string_view lines, int world_size);

}  // namespace viaduct::training
