#include "viaduct/training/training_data.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"

namespace viaduct::training {

namespace {

// One row a sample.
template <class T>
at::Tensor rows_of(const std::vector<data::Sample>& samples, std::vector<T> data::Sample::*member,
                   c10::ScalarType type) {
  const auto length = static_cast<int64_t>((samples.front().*member).size());
  at::Tensor rows = at::empty({static_cast<int64_t>(samples.size()), length}, type);
  T* to = rows.mutable_data_ptr<T>();
  for (const data::Sample& sample : samples) {
    const std::vector<T>& row = sample.*member;
    VIADUCT_CHECK(static_cast<int64_t>(row.size()) == length, "samples of {} and {} tokens in one micro-batch",
                  length, row.size());
    to = std::copy(row.begin(), row.end(), to);
  }
  return rows;
}

bool counts_up(const data::Sample& sample) {
  for (size_t i = 0; i < sample.position_ids.size(); ++i)
    if (sample.position_ids[i] != static_cast<int64_t>(i)) return false;
  return true;
}

}  // namespace

at::Tensor tensor_of(const data::IdRows& rows) {
  return at::tensor(rows.values, at::TensorOptions().dtype(at::kLong)).view({rows.rows, rows.columns});
}

MicroBatch collate(const std::vector<data::Sample>& samples, c10::Device device) {
  MicroBatch batch;
  batch.tokens = rows_of(samples, &data::Sample::tokens, at::kLong).to(device);
  batch.labels = rows_of(samples, &data::Sample::labels, at::kLong).to(device);
  batch.loss_mask = rows_of(samples, &data::Sample::loss_mask, at::kFloat).to(device);
  if (!std::all_of(samples.begin(), samples.end(), counts_up))
    batch.position_ids = rows_of(samples, &data::Sample::position_ids, at::kLong).to(device);
  const auto several = [](const data::Sample& sample) { return sample.sequences.size() > 2; };
  if (std::any_of(samples.begin(), samples.end(), several)) {
    nn::PackedSequences packed;
    for (const data::Sample& sample : samples) {
      const auto length = static_cast<int64_t>(sample.tokens.size());
      packed.cu_seqlens.push_back(sample.sequences.empty() ? std::vector<int64_t>{0, length} : sample.sequences);
    }
    batch.packed = std::make_shared<const nn::PackedSequences>(std::move(packed));
  }
  return batch;
}

SampledBatches::SampledBatches(std::shared_ptr<const data::Dataset> dataset, std::unique_ptr<data::Sampler> sampler,
                               const Options& options)
    : dataset_(std::move(dataset)), sampler_(std::move(sampler)), options_(options), thread_([this] { read(); }) {}

SampledBatches::~SampledBatches() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::vector<data::Sample> SampledBatches::fetch() {
  const auto size = static_cast<size_t>(options_.micro_batch_size);
  bool begun = false;
  while (named_.size() < size) {
    if (const auto named = sampler_->next()) {
      named_.insert(named_.end(), named->begin(), named->end());
      begun = false;
      continue;
    }
    if (!options_.epochs || begun) return {};
    sampler_->restart();
    begun = true;
  }
  std::vector<data::Sample> samples;
  for (; samples.size() < size; named_.pop_front())
    samples.push_back(named_.front() < 0 ? dataset_->padding_item() : dataset_->get_item(named_.front()));
  return samples;
}

void SampledBatches::read() {
  while (true) {
    std::vector<data::Sample> samples;
    std::exception_ptr error;
    try {
      samples = fetch();
    } catch (...) {
      error = std::current_exception();  // thrown by next()
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || ready_.size() < static_cast<size_t>(options_.read_ahead); });
    if (stopping_) return;
    error_ = error;
    ended_ = error || samples.empty();
    if (!ended_) ready_.push_back(std::move(samples));
    changed_.notify_all();
    if (ended_) return;
  }
}

MicroBatch SampledBatches::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ended_ || !ready_.empty(); });
  if (ready_.empty()) {
    if (error_) std::rethrow_exception(error_);
    throw UserError(
        fmt::format("the data are at their end after {} samples: train for fewer iterations, give more data, or "
                    "set dataset.dataloader_type=cyclic",
                    sampler_->consumed_samples()));
  }
  const std::vector<data::Sample> samples = std::move(ready_.front());
  ready_.pop_front();
  lock.unlock();
  changed_.notify_all();
  return collate(samples, options_.device);
}

}  // namespace viaduct::training
