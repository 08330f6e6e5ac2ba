// The data of pretraining: GPT datasets, and who of the ranks gets which samples.
#pragma once

#include <memory>

#include "viaduct/data/build.h"
#include "viaduct/text/tokenizer.h"
#include "viaduct/training/train.h"
#include "viaduct/training/training_data.h"

namespace viaduct::training {

/// Train, validation and test data of a run.
class PretrainData : public RunData {
 public:
  /// Builds or reads the indexes: the first rank first, then the others, who find them in the cache. Collective.
  PretrainData(const GlobalState& state, const text::Tokenizer* tokenizer);

  /// From state.train_state.consumed_train_samples on.
  std::unique_ptr<MicroBatches> train(const GlobalState& state) const override;
  /// From consumed_valid_samples on; null where the split is empty.
  std::unique_ptr<MicroBatches> validation(const GlobalState& state) const override;
  /// From its first sample on; null where the split is empty.
  std::unique_ptr<MicroBatches> test(const GlobalState& state) const override;

 private:
  std::unique_ptr<MicroBatches> evaluation(const GlobalState& state, data::Split split, int64_t consumed) const;
  data::DatasetSplits datasets_;
};

}  // namespace viaduct::training
