// From numbered samples to micro-batches on this rank's device.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "viaduct/data/dataset.h"
#include "viaduct/data/sampler.h"
#include "viaduct/data/sft_collate.h"
#include "viaduct/training/forward_step.h"

namespace viaduct::training {

/// Samples side by side; position ids only where they differ from 0, 1, ..., and sequences where there are several.
MicroBatch collate(const std::vector<data::Sample>& samples, c10::Device device);

/// [rows, columns], int64.
at::Tensor tensor_of(const data::IdRows& rows);

/// The samples that a sampler names, read ahead by a thread. At the end of an epoch it goes on with the next one,
/// unless the sampler has only one.
class SampledBatches : public MicroBatches {
 public:
  /// How it reads.
  struct Options {
    int64_t micro_batch_size = 1;
    c10::Device device = at::kCPU;
    bool epochs = true;  // begin again at the end of the data; false: UserError
    int read_ahead = 4;  // micro-batches
  };
  /// Begins to read.
  SampledBatches(std::shared_ptr<const data::Dataset> dataset, std::unique_ptr<data::Sampler> sampler,
                 const Options& options);
  ~SampledBatches() override;
  MicroBatch next() override;

 private:
  void read();
  // The samples of one micro-batch; empty at the end.
  std::vector<data::Sample> fetch();

  const std::shared_ptr<const data::Dataset> dataset_;
  const std::unique_ptr<data::Sampler> sampler_;
  const Options options_;
  std::deque<int64_t> named_;  // by the sampler, not fetched yet

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<std::vector<data::Sample>> ready_;
  bool stopping_ = false;
  bool ended_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace viaduct::training
