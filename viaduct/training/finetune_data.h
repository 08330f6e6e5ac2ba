// The data of fine-tuning: JSONL files of prompts and answers, or of conversations.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "viaduct/data/sampler.h"
#include "viaduct/data/sft_dataset.h"
#include "viaduct/training/sft_format.h"
#include "viaduct/training/train.h"
#include "viaduct/training/training_data.h"

namespace viaduct::training {

/// Micro-batches of examples. What the sampler names at a time (of "batch": a global batch) is padded to one
/// length.
class SftBatches : public MicroBatches {
 public:
  /// `sampler` names whole micro-batches at a time. `epochs`: it begins anew at the end of the data; else
  /// UserError.
  SftBatches(std::shared_ptr<const data::SftDataset> dataset, std::unique_ptr<data::Sampler> sampler,
             data::CollateOptions options, int64_t micro_batch_size, c10::Device device, bool epochs = true);
  MicroBatch next() override;

 private:
  void read();

  std::shared_ptr<const data::SftDataset> dataset_;
  std::unique_ptr<data::Sampler> sampler_;
  data::CollateOptions options_;
  int64_t micro_batch_size_;
  c10::Device device_;
  bool epochs_;
  std::deque<MicroBatch> ready_;
};

/// Samples by their number, one after the other or several in a row, as they come to the model.
struct SftSource {
  int64_t size = 0;
  /// Micro-batches of so many of the samples that the sampler names; `epochs` as for SftBatches.
  std::function<std::unique_ptr<MicroBatches>(std::unique_ptr<data::Sampler>, int64_t micro_batch_size,
                                              bool epochs)>
      batches;
};

/// training.jsonl, validation.jsonl and test.jsonl of dataset.dataset_root; with dataset.enable_offline_packing the
/// first two in packs. What upstream tests on is not packed.
class FinetuneData : public RunData {
 public:
  /// Of a section dataset that is a GPTSFTDatasetConfig (FinetuningDatasetConfig). UserError when there is no
  /// tokenizer, or no training.jsonl.
  FinetuneData(const GlobalState& state, std::shared_ptr<const text::Tokenizer> tokenizer);

  /// From state.train_state.consumed_train_samples on.
  std::unique_ptr<MicroBatches> train(const GlobalState& state) const override;
  /// In the order of the file, from its first line on; null where there is no file or dataset.do_validation is
  /// false.
  std::unique_ptr<MicroBatches> validation(const GlobalState& state) const override;
  /// Likewise, with dataset.do_test.
  std::unique_ptr<MicroBatches> test(const GlobalState& state) const override;

 private:
  std::unique_ptr<MicroBatches> evaluation(const GlobalState& state, const std::optional<SftSource>& source) const;
  std::optional<SftSource> train_, validation_, test_;
};

}  // namespace viaduct::training
