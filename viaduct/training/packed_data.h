// From packs of examples to micro-batches.
#pragma once

#include <deque>
#include <memory>

#include "viaduct/data/packed_collate.h"
#include "viaduct/data/sampler.h"
#include "viaduct/data/sft_dataset.h"
#include "viaduct/training/training_data.h"

namespace viaduct::training {

/// A packed batch on `device`. Attention stays inside of the examples; what they were padded with belongs to them,
/// stands behind them, and so is seen by nothing that counts.
MicroBatch collate(const data::PackedBatch& batch, c10::Device device);

/// The packs that a sampler names.
class PackedBatches : public MicroBatches {
 public:
  /// Micro-batches of `micro_batch_size` packs, made as `options` say. `epochs`: at the end of the data they begin
  /// anew; else UserError.
  PackedBatches(std::shared_ptr<const data::PackedDataset> dataset, std::unique_ptr<data::Sampler> sampler,
                data::PackedCollateOptions options, int64_t micro_batch_size, c10::Device device,
                bool epochs = true);
  MicroBatch next() override;

 private:
  std::shared_ptr<const data::PackedDataset> dataset_;
  std::unique_ptr<data::Sampler> sampler_;
  data::PackedCollateOptions options_;
  int64_t micro_batch_size_;
  c10::Device device_;
  bool epochs_;
  std::deque<int64_t> named_;  // by the sampler, not used yet
};

}  // namespace viaduct::training
