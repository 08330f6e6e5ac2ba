// How many microbatches an iteration has: a constant batch size, one that ramps up, or one that grows by steps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace viaduct::topology {

/// What batches are made of; upstream's names. All sizes count samples.
struct BatchOptions {
  int64_t micro_batch_size = 1;
  int64_t data_parallel_size = 1;
  /// nullopt: one microbatch a rank, or what step_batch_size_schedule says.
  std::optional<int64_t> global_batch_size;
  /// [first global batch size, increment, samples over which it grows to global_batch_size].
  std::optional<std::vector<int64_t>> rampup_batch_size;
  /// A batch size that the ranks cannot share evenly is rounded down instead of refused.
  bool decrease_batch_size_if_needed = false;
  /// "0:768 250B:1536 500B:3072": from so many samples (tokens when seq_length is set) on, this batch size. K, M, B
  /// and T are 10^3 to 10^12.
  std::optional<std::string> step_batch_size_schedule;
  std::optional<int64_t> seq_length;
};

/// The batch of one iteration.
struct BatchSizes {
  int64_t global = 0;            // what the configuration asks for
  int64_t running = 0;           // what is really run: less only with decrease_batch_size_if_needed
  int64_t num_microbatches = 0;  // of each data-parallel rank
  friend bool operator==(const BatchSizes&, const BatchSizes&) = default;
};

/// Batch sizes by the number of samples consumed, as megatron-core's calculators give them (constant and steps:
/// 0.19; ramp-up: 0.16, the last release that had it).
class BatchSchedule {
 public:
  /// UserError that names the option which is impossible or contradicts another.
  explicit BatchSchedule(const BatchOptions& options);

  /// The batch after so many consumed samples. UserError when the ranks cannot share it evenly, or when there is
  /// not one microbatch for each.
  BatchSizes at(int64_t consumed_samples) const;
  /// True when the batch size depends on the samples consumed.
  bool is_constant() const { return !options_.rampup_batch_size && steps_.empty(); }
  /// The batch size at the end of the ramp or the last step.
  int64_t final_global_batch_size() const { return *options_.global_batch_size; }

 private:
  int64_t global_at(int64_t consumed_samples) const;

  BatchOptions options_;
  std::vector<std::pair<int64_t, int64_t>> steps_;  // (samples, batch size from there on)
};

}  // namespace viaduct::topology
