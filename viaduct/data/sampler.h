// Samplers: which samples a data-parallel rank takes in which order, and from where a resumed run goes on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace viaduct::data {

/// What all samplers count by.
struct SamplerOptions {
  int64_t total_samples = 0;
  int64_t consumed_samples = 0;  // by all ranks together, since the run began
  int64_t micro_batch_size = 1;
  int64_t data_parallel_rank = 0;
  int64_t data_parallel_size = 1;
  bool drop_last = true;  // what is left at the end and is no whole batch
};

/// Gives batches of sample numbers to one rank; all ranks together get each sample of an epoch at most once. What
/// comes depends only on the options, so a run that resumes with its consumed_samples goes on as if it had not
/// stopped.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// The next batch; nullopt at the end of an epoch (for `single`: of the data). -1 stands for a sample that only
  /// fills the batch.
  virtual std::optional<std::vector<int64_t>> next() = 0;
  /// Begins again: with the epoch that consumed_samples() stands in.
  virtual void restart() = 0;
  /// Samples that all ranks have taken up to now, resumed ones included.
  virtual int64_t consumed_samples() const = 0;
};

/// "single": samples in the order of the dataset, a micro batch at a time (upstream's MegatronPretrainingSampler).
/// They are gone through once. UserError when nothing is left, as for all samplers for sizes that cannot be.
std::unique_ptr<Sampler> single_sampler(const SamplerOptions& options);

/// "cyclic": each epoch in an order of its own, a micro batch at a time (MegatronPretrainingRandomSampler). With
/// data_sharding every rank keeps to its part of the samples. UserError when consumed_samples is no multiple of
/// what all ranks take at a time.
std::unique_ptr<Sampler> cyclic_sampler(const SamplerOptions& options, bool data_sharding);

/// How a finetuning run's global batches are made.
struct BatchSamplerOptions {
  int64_t global_batch_size = 1;
  bool pad_samples_to_global_batch_size = false;  // with -1
  bool shuffle = true;                            // each epoch in an order of its own, from `seed`
  int64_t seed = 1234;
};
/// "batch": a rank's samples of a whole global batch at a time, dealt out in turns
/// (MegatronPretrainingBatchSampler). UserError when the global batch is no multiple of the micro batches of all
/// ranks, and with drop_last when there is no whole global batch.
std::unique_ptr<Sampler> batch_sampler(const SamplerOptions& options, const BatchSamplerOptions& batch);

}  // namespace viaduct::data
