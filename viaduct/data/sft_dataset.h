// Finetuning data by the number of the sample: which line or pack it is, made on demand.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "viaduct/data/jsonl_file.h"
#include "viaduct/data/packed_collate.h"
#include "viaduct/data/sft_example.h"

namespace viaduct::data {

/// Lines in a random order, over and over, until there are enough (upstream's _OnlineSampleMapping: blocks of a
/// million in random order, each in random order). Several threads may use one.
class SampleOrder {
 public:
  /// UserError unless both sizes are 1 or more. Upstream's seed is always 1.
  SampleOrder(int64_t dataset_size, int64_t num_samples, int64_t seed = 1, int64_t block_size = 1'000'000);
  /// The line of sample `i`, which is 0 or more and below num_samples().
  int64_t operator[](int64_t i) const;
  /// Number of samples.
  int64_t num_samples() const { return num_samples_; }

 private:
  struct Block {
    int64_t number = -1;
    std::vector<int64_t> lines;
  };
  int64_t dataset_size_, num_samples_, seed_, block_size_;
  std::vector<int64_t> blocks_;  // which block comes when
  std::vector<int64_t> ends_;    // samples up to the end of each
  mutable std::mutex mutex_;
  mutable Block recent_[2];  // the blocks used last, the last one first
};

/// Examples of a JSONL file.
class SftDataset {
 public:
  /// With `max_num_samples` in the order of SampleOrder, else line by line.
  SftDataset(const Path& file, std::unique_ptr<SftFormat> format, std::optional<int64_t> max_num_samples = {});
  /// Number of samples.
  int64_t size() const { return order_ ? order_->num_samples() : lines_.size(); }
  /// Sample `i`; one below 0 is counted from the end and only fills a batch. UserError naming file and line.
  SftExample get(int64_t i) const;

 private:
  JsonlFile lines_;
  std::unique_ptr<SftFormat> format_;
  std::optional<SampleOrder> order_;
};

/// Packs of a packed file.
class PackedDataset {
 public:
  /// With `max_num_samples` each time through the packs in an order of its own, drawn from `seed`; else pack by
  /// pack.
  explicit PackedDataset(std::vector<PackedSequence> packs, std::optional<int64_t> max_num_samples = {},
                         int64_t seed = 1234);
  /// Number of samples.
  int64_t size() const {
    return order_.empty() ? static_cast<int64_t>(packs_.size()) : static_cast<int64_t>(order_.size());
  }
  /// Sample `i`, valid as long as this; one below 0 is counted from the end and only fills a batch.
  PackedItem get(int64_t i) const;

 private:
  std::vector<PackedSequence> packs_;
  std::vector<int64_t> order_;
};

}  // namespace viaduct::data
