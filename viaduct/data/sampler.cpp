#include "viaduct/data/sampler.h"

#include <algorithm>
#include <numeric>

#include "viaduct/core/error.h"
#include "viaduct/data/random.h"

namespace viaduct::data {

namespace {

void check(const SamplerOptions& options) {
  VIADUCT_USER_CHECK(options.total_samples > 0, "the dataset has no samples to take");
  VIADUCT_USER_CHECK(options.consumed_samples >= 0, "consumed_samples is {}", options.consumed_samples);
  VIADUCT_USER_CHECK(options.micro_batch_size > 0, "train.micro_batch_size is {}; it must be positive",
                     options.micro_batch_size);
  VIADUCT_USER_CHECK(options.data_parallel_size > 0 && options.data_parallel_rank >= 0 &&
                         options.data_parallel_rank < options.data_parallel_size,
                     "there is no data-parallel rank {} of {}", options.data_parallel_rank,
                     options.data_parallel_size);
}

int64_t step_of(const SamplerOptions& options) { return options.micro_batch_size * options.data_parallel_size; }

class SingleSampler : public Sampler {
 public:
  explicit SingleSampler(const SamplerOptions& options) : options_(options), at_(options.consumed_samples) {
    VIADUCT_USER_CHECK(
        at_ < options.total_samples,
        "no samples are left: {} of {} are consumed; ask for more samples, or for a cyclic dataloader", at_,
        options.total_samples);
  }

  std::optional<std::vector<int64_t>> next() override {
    const int64_t step = step_of(options_), end = std::min(at_ + step, options_.total_samples);
    if (at_ >= end || (end < at_ + step && options_.drop_last)) return std::nullopt;
    const int64_t first = std::min(at_ + options_.data_parallel_rank * options_.micro_batch_size, end);
    std::vector<int64_t> batch(static_cast<size_t>(std::min(options_.micro_batch_size, end - first)));
    std::iota(batch.begin(), batch.end(), first);
    at_ = end;
    return batch;
  }
  void restart() override {}
  int64_t consumed_samples() const override { return at_; }

 private:
  SamplerOptions options_;
  int64_t at_;
};

class CyclicSampler : public Sampler {
 public:
  CyclicSampler(const SamplerOptions& options, bool data_sharding)
      : options_(options), sharding_(data_sharding), consumed_(options.consumed_samples) {
    VIADUCT_USER_CHECK(options.total_samples >= step_of(options),
                       "the dataset has {} samples, and all ranks take {} at a time ({} of each of {})",
                       options.total_samples, step_of(options), options.micro_batch_size,
                       options.data_parallel_size);
    restart();
  }

  void restart() override {
    const int64_t step = step_of(options_), total = options_.total_samples, size = options_.data_parallel_size;
    const int64_t active = total - total % step, done = consumed_ % active;
    VIADUCT_USER_CHECK(done % step == 0,
                       "consumed_samples is {}, {} into its epoch, which is no multiple of the {} samples that all "
                       "ranks take at a time: resume with the batch sizes of the run before",
                       consumed_, done, step);
    const auto seed = static_cast<uint64_t>(consumed_ / active);
    order_.clear();
    at_ = 0;
    if (sharding_) {
      const int64_t bucket = total / step * options_.micro_batch_size;
      const std::vector<int64_t> order = torch_randperm(bucket, seed);
      for (auto i = static_cast<size_t>(done / size); i < order.size(); ++i)
        order_.push_back(options_.data_parallel_rank * bucket + order[i]);
    } else {
      const std::vector<int64_t> order =
          torch_randperm(total / options_.micro_batch_size * options_.micro_batch_size, seed);
      for (auto i = static_cast<size_t>(done + options_.data_parallel_rank); i < order.size();
           i += static_cast<size_t>(size))
        order_.push_back(order[i]);
    }
  }

  std::optional<std::vector<int64_t>> next() override {
    const auto count = static_cast<size_t>(options_.micro_batch_size);
    if (order_.size() - at_ < count) return std::nullopt;
    const auto first = order_.begin() + static_cast<ptrdiff_t>(at_);
    at_ += count;
    consumed_ += step_of(options_);
    return std::vector<int64_t>(first, first + static_cast<ptrdiff_t>(count));
  }
  int64_t consumed_samples() const override { return consumed_; }

 private:
  SamplerOptions options_;
  bool sharding_;
  int64_t consumed_;
  std::vector<int64_t> order_;  // this rank's samples of the rest of the epoch
  size_t at_ = 0;
};

class BatchSampler : public Sampler {
 public:
  BatchSampler(const SamplerOptions& options, const BatchSamplerOptions& batch)
      : options_(options), batch_(batch), consumed_(options.consumed_samples) {
    VIADUCT_USER_CHECK(batch.global_batch_size > 0 && batch.global_batch_size % step_of(options) == 0,
                       "train.global_batch_size is {}, which is no multiple of micro_batch_size {} times {} "
                       "data-parallel ranks",
                       batch.global_batch_size, options.micro_batch_size, options.data_parallel_size);
    VIADUCT_USER_CHECK(!options.drop_last || options.total_samples >= batch.global_batch_size,
                       "the dataset has {} samples, less than one global batch of {}, and drop_last is set",
                       options.total_samples, batch.global_batch_size);
    restart();
  }

  void restart() override {
    const int64_t epoch_samples = samples_per_epoch();
    if (batch_.shuffle) {
      order_ =
          torch_randperm(options_.total_samples, static_cast<uint64_t>(batch_.seed + consumed_ / epoch_samples));
    } else {
      order_.resize(static_cast<size_t>(options_.total_samples));
      std::iota(order_.begin(), order_.end(), int64_t{0});
    }
    at_ = std::min(static_cast<size_t>(consumed_ % epoch_samples), order_.size());
  }

  std::optional<std::vector<int64_t>> next() override {
    const auto global = static_cast<size_t>(batch_.global_batch_size), left = order_.size() - at_;
    const size_t count = std::min(left, global), ranks = static_cast<size_t>(options_.data_parallel_size);
    if (count == 0 || (count < global && options_.drop_last)) return std::nullopt;
    std::vector<int64_t> batch;
    for (auto i = static_cast<size_t>(options_.data_parallel_rank); i < count; i += ranks)
      batch.push_back(order_[at_ + i]);
    at_ += count;
    const bool pads = batch_.pad_samples_to_global_batch_size;
    if (pads) batch.resize(global / ranks, -1);
    consumed_ += static_cast<int64_t>(pads ? global : count);
    return batch;
  }
  int64_t consumed_samples() const override { return consumed_; }

 private:
  int64_t samples_per_epoch() const {
    const int64_t total = options_.total_samples, global = batch_.global_batch_size;
    if (options_.drop_last) return total / global * global;
    return batch_.pad_samples_to_global_batch_size ? (total + global - 1) / global * global : total;
  }

  SamplerOptions options_;
  BatchSamplerOptions batch_;
  int64_t consumed_;
  std::vector<int64_t> order_;
  size_t at_ = 0;
};

}  // namespace

std::unique_ptr<Sampler> single_sampler(const SamplerOptions& options) {
  check(options);
  return std::make_unique<SingleSampler>(options);
}

std::unique_ptr<Sampler> cyclic_sampler(const SamplerOptions& options, bool data_sharding) {
  check(options);
  return std::make_unique<CyclicSampler>(options, data_sharding);
}

std::unique_ptr<Sampler> batch_sampler(const SamplerOptions& options, const BatchSamplerOptions& batch) {
  check(options);
  return std::make_unique<BatchSampler>(options, batch);
}

}  // namespace viaduct::data
