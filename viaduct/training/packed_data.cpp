#include "viaduct/training/packed_data.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"

namespace viaduct::training {

MicroBatch collate(const data::PackedBatch& batch, c10::Device device) {
  MicroBatch result;
  result.tokens = tensor_of(batch.tokens).to(device);
  result.labels = tensor_of(batch.labels).to(device);
  result.loss_mask = tensor_of(batch.loss_mask).to(at::kFloat).to(device);
  result.position_ids = tensor_of(batch.position_ids).to(device);
  nn::PackedSequences packed;
  // Places in the row, not what counts of them.
  const auto& offsets = batch.cu_seqlens_padded.empty() ? batch.cu_seqlens : batch.cu_seqlens_padded;
  for (const std::vector<int32_t>& row : offsets) packed.cu_seqlens.emplace_back(row.begin(), row.end());
  result.packed = std::make_shared<const nn::PackedSequences>(std::move(packed));
  return result;
}

PackedBatches::PackedBatches(std::shared_ptr<const data::PackedDataset> dataset,
                             std::unique_ptr<data::Sampler> sampler, data::PackedCollateOptions options,
                             int64_t micro_batch_size, c10::Device device, bool epochs)
    : dataset_(std::move(dataset)),
      sampler_(std::move(sampler)),
      options_(std::move(options)),
      micro_batch_size_(micro_batch_size),
      device_(device),
      epochs_(epochs) {}

MicroBatch PackedBatches::next() {
  bool begun = false;
  while (static_cast<int64_t>(named_.size()) < micro_batch_size_) {
    if (const auto named = sampler_->next()) {
      named_.insert(named_.end(), named->begin(), named->end());
      begun = false;
      continue;
    }
    VIADUCT_USER_CHECK(
        epochs_,
        "the packs are at their end after {} of them: train for fewer iterations, give more data, or "
        "set dataset.dataloader_type=batch",
        sampler_->consumed_samples());
    VIADUCT_USER_CHECK(!begun, "{} packs are too few for a micro-batch of {} packs on every rank", dataset_->size(),
                       micro_batch_size_);
    sampler_->restart();
    begun = true;
  }
  std::vector<data::PackedItem> items;
  for (; static_cast<int64_t>(items.size()) < micro_batch_size_; named_.pop_front())
    items.push_back(dataset_->get(named_.front()));
  return collate(data::collate_packed(items, options_), device_);
}

}  // namespace viaduct::training
