#include "viaduct/data/sft_dataset.h"

#include <algorithm>
#include <utility>

#include "viaduct/core/error.h"
#include "viaduct/data/random.h"

namespace viaduct::data {

SampleOrder::SampleOrder(int64_t dataset_size, int64_t num_samples, int64_t seed, int64_t block_size)
    : dataset_size_(dataset_size),
      num_samples_(num_samples),
      seed_(seed),
      block_size_(std::min(block_size, dataset_size)) {
  VIADUCT_USER_CHECK(dataset_size >= 1 && num_samples >= 1 && block_size >= 1,
                     "{} samples were asked for of a data set of {} (blocks of {}); all must be 1 or more",
                     num_samples, dataset_size, block_size);
  const int64_t required = std::max(num_samples, dataset_size);
  const int64_t last = required % block_size_;
  const int64_t count = (required + block_size_ - 1) / block_size_;
  blocks_ = NumpyRandomState(seed).permutation(count);
  int64_t end = 0;
  for (const int64_t block : blocks_) ends_.push_back(end += block == count - 1 && last > 0 ? last : block_size_);
}

int64_t SampleOrder::operator[](int64_t i) const {
  VIADUCT_CHECK(i >= 0 && i < num_samples_, "sample {} of {}", i, num_samples_);
  const auto place = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin());
  const int64_t begin = place == 0 ? 0 : ends_[place - 1];
  const auto number = static_cast<int64_t>(place);
  const std::lock_guard lock(mutex_);
  if (recent_[0].number != number) {
    std::swap(recent_[0], recent_[1]);
    if (recent_[0].number != number) {
      recent_[0] = {number, NumpyRandomState(seed_ + number).permutation(ends_[place] - begin)};
      for (int64_t& line : recent_[0].lines) line = (blocks_[place] * block_size_ + line) % dataset_size_;
    }
  }
  return recent_[0].lines[static_cast<size_t>(i - begin)];
}

SftDataset::SftDataset(const Path& file, std::unique_ptr<SftFormat> format, std::optional<int64_t> max_num_samples)
    : lines_(file), format_(std::move(format)) {
  if (max_num_samples) order_.emplace(lines_.size(), *max_num_samples);
}

SftExample SftDataset::get(int64_t i) const {
  const bool fills_batch = i < 0;
  if (fills_batch) i += size();
  VIADUCT_CHECK(i >= 0 && i < size(), "sample {} of {}", i, size());
  const int64_t line = order_ ? (*order_)[i] : i;
  SftExample example = format_->apply(lines_.line(line), lines_.place(line));
  example.fills_batch = fills_batch;
  return example;
}

PackedDataset::PackedDataset(std::vector<PackedSequence> packs, std::optional<int64_t> max_num_samples,
                             int64_t seed)
    : packs_(std::move(packs)) {
  VIADUCT_USER_CHECK(!packs_.empty(), "there are no packed sequences");
  if (!max_num_samples) return;
  VIADUCT_USER_CHECK(*max_num_samples >= 1, "{} samples were asked for; it must be 1 or more", *max_num_samples);
  NumpyRandomState random(seed);
  while (static_cast<int64_t>(order_.size()) < *max_num_samples) {
    const std::vector<int64_t> epoch = random.permutation(static_cast<int64_t>(packs_.size()));
    order_.insert(order_.end(), epoch.begin(), epoch.end());
  }
  order_.resize(static_cast<size_t>(*max_num_samples));
}

PackedItem PackedDataset::get(int64_t i) const {
  const bool fills_batch = i < 0;
  if (fills_batch) i += size();
  VIADUCT_CHECK(i >= 0 && i < size(), "sample {} of {}", i, size());
  return {&packs_[static_cast<size_t>(order_.empty() ? i : order_[static_cast<size_t>(i)])], fills_batch};
}

}  // namespace viaduct::data
