// From a configuration to the datasets of a run (megatron-core's BlendedMegatronDatasetBuilder).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "viaduct/data/config.h"
#include "viaduct/data/dataset.h"

namespace viaduct::data {

/// Samples wanted of train, valid and test; none: one epoch of all documents.
using SplitSizes = std::array<std::optional<int64_t>, kNumSplits>;

/// The datasets of train, valid and test: none for a split that gets nothing, and one otherwise; several only for
/// validation with multiple_validation_sets.
using DatasetSplits = std::array<std::vector<std::shared_ptr<const Dataset>>, kNumSplits>;

/// Builds or loads all of them. Indexes go through the cache, so one process of several builds first and the others
/// call this after it. UserError naming setting or file for anything that cannot be.
DatasetSplits build_gpt_datasets(const GPTDatasetConfig& config, const SplitSizes& sizes);

/// Samples that each dataset of a blend is to give: ceil(ceil(size * share) * (1 + surplus)).
int64_t samples_of_share(int64_t size, double share, double surplus);

}  // namespace viaduct::data
