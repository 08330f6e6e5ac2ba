// BlendedDataset: samples of several datasets in given shares (megatron-core's BlendedDataset).
#pragma once

#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "viaduct/data/blend_index.h"
#include "viaduct/data/config.h"
#include "viaduct/data/dataset.h"

namespace viaduct::data {

/// A blend of datasets of one split.
class BlendedDataset : public Dataset {
 public:
  /// In shares of any units, or in numbers of samples.
  using Weights = std::variant<std::vector<double>, std::vector<int64_t>>;

  /// Loads the indexes from the cache, or builds them and saves them there when path_to_cache is given. `size`:
  /// samples to draw; none: of each dataset as many as its weight says. UserError for weights that are not above 0,
  /// and when a dataset has fewer samples than the blend takes of it.
  BlendedDataset(std::vector<std::shared_ptr<const Dataset>> datasets, Weights weights, std::optional<int64_t> size,
                 const GPTDatasetConfig& config);

  int64_t size() const override { return index_.dataset.size(); }
  Sample get_item(int64_t i) const override;
  Sample padding_item() const override { return datasets_[0]->padding_item(); }
  Split split() const override { return datasets_[0]->split(); }
  Json unique_identifiers() const override;

  /// The two indexes, and the datasets that they count.
  const BlendIndex& index() const { return index_; }
  const std::vector<std::shared_ptr<const Dataset>>& datasets() const { return datasets_; }

 private:
  BlendIndex load_or_build(const GPTDatasetConfig& config) const;
  BlendIndex build(const GPTDatasetConfig& config) const;

  std::vector<std::shared_ptr<const Dataset>> datasets_;
  Weights weights_;
  std::optional<int64_t> size_;
  BlendIndex index_;
};

}  // namespace viaduct::data
