#include "viaduct/data/blended_dataset.h"

#include <algorithm>
#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/data/index_cache.h"

namespace viaduct::data {

using formats::NpyArray;

namespace {

constexpr size_t kMostDatasets = 32766;  // their numbers are int16

using Weights = BlendedDataset::Weights;

// Shares where a size is given; numbers of samples where none is.
Weights prepared(Weights weights, bool has_size) {
  if (has_size) {
    std::vector<double> shares;
    std::visit([&](const auto& all) { shares.assign(all.begin(), all.end()); }, weights);
    return normalize(shares);
  }
  return weights;
}

std::vector<int64_t> counts(const Weights& weights) {
  std::vector<int64_t> samples;
  std::visit([&](const auto& all) { samples.assign(all.begin(), all.end()); }, weights);
  return samples;
}

}  // namespace

BlendedDataset::BlendedDataset(std::vector<std::shared_ptr<const Dataset>> datasets, Weights weights,
                               std::optional<int64_t> size, const GPTDatasetConfig& config)
    : datasets_(std::move(datasets)), size_(size) {
  const size_t num_weights = std::visit([](const auto& all) { return all.size(); }, weights);
  VIADUCT_CHECK(!datasets_.empty());
  VIADUCT_CHECK_EQ(num_weights, datasets_.size());
  VIADUCT_USER_CHECK_LE(datasets_.size(), kMostDatasets, "too many datasets in one blend");
  std::visit(
      [&](const auto& all) {
        for (size_t i = 0; i < all.size(); ++i) {
          VIADUCT_USER_CHECK(
              all[i] > 0,
              "the {} blend: {} has the weight {}; leave it out of the blend, or give it more documents",
              name(split()), datasets_[i]->unique_identifiers().dump(), all[i]);
          VIADUCT_USER_CHECK(
              size_ || static_cast<double>(all[i]) == std::floor(static_cast<double>(all[i])),
              "the {} blend: without a number of samples its weights are numbers of samples, found {}",
              name(split()), all[i]);
        }
      },
      weights);
  weights_ = prepared(std::move(weights), size_.has_value());
  index_ = load_or_build(config);
}

Json BlendedDataset::unique_identifiers() const {
  Json identifiers = Json::object();
  identifiers.set("class", "BlendedDataset");
  Json datasets = Json::array(), weights = Json::array();
  for (const auto& dataset : datasets_) datasets.items().push_back(dataset->unique_identifiers());
  identifiers.set("datasets", std::move(datasets));
  identifiers.set("split", name(split()));
  std::visit([&](const auto& all) { weights.items().assign(all.begin(), all.end()); }, weights_);
  identifiers.set("weights", std::move(weights));
  identifiers.set("size", size_ ? Json(*size_) : Json());
  return identifiers;
}

BlendIndex BlendedDataset::build(const GPTDatasetConfig& config) const {
  BlendIndex index = size_ ? build_blend_index(std::get<std::vector<double>>(weights_), *size_)
                           : build_exhaustive_blend_index(counts(weights_));
  std::vector<int64_t> used(datasets_.size());
  for (const int16_t id : index.dataset.as<int16_t>()) ++used[static_cast<size_t>(id)];
  for (size_t i = 0; i < used.size(); ++i)
    VIADUCT_USER_CHECK(used[i] <= datasets_[i]->size(),
                       "the {} blend takes {} samples of dataset {}, which has {}: raise "
                       "dataset.mid_level_dataset_surplus, two- or tenfold ({} now)",
                       name(split()), used[i], i, datasets_[i]->size(), config.mid_level_dataset_surplus);
  return index;
}

BlendIndex BlendedDataset::load_or_build(const GPTDatasetConfig& config) const {
  if (!config.path_to_cache) return build(config);
  const IndexCache cache(*config.path_to_cache, description_text(unique_identifiers()), "BlendedDataset",
                         name(split()));
  const Path paths[] = {cache.array("dataset_index"), cache.array("dataset_sample_index")};
  if (!cache.has({"dataset_index", "dataset_sample_index"})) {
    VIADUCT_USER_CHECK(!config.fast_cache_load,
                       "dataset.fast_cache_load is set, and {} is not in the cache: run once without it",
                       paths[0].string());
    const BlendIndex index = build(config);
    cache.make_folder();
    index.dataset.save(paths[0]);
    index.dataset_sample.save(paths[1]);
    cache.write_description();
  }
  BlendIndex index{NpyArray::map(paths[0]), NpyArray::map(paths[1])};
  VIADUCT_USER_CHECK(
      index.dataset.dtype() == DType::kI16 && index.dataset_sample.dtype() == DType::kI64 &&
          index.dataset.shape() == Shape{index.dataset.size()} &&
          index.dataset_sample.shape() == index.dataset.shape() && (!size_ || index.dataset.size() == *size_),
      "{} {} {} and {} {} {} are no index of a blend of {} samples: remove them, and they are built again",
      paths[0].string(), index.dataset.dtype(), index.dataset.shape(), paths[1].string(),
      index.dataset_sample.dtype(), index.dataset_sample.shape(), size_.value_or(index.dataset.size()));
  return index;
}

Sample BlendedDataset::get_item(int64_t i) const {
  VIADUCT_USER_CHECK(i >= 0 && i < size(), "the {} blend: there is no sample {}, there are {}", name(split()), i,
                     size());
  const int64_t id = index_.dataset.integer(i);
  VIADUCT_USER_CHECK(id >= 0 && id < static_cast<int64_t>(datasets_.size()),
                     "the {} blend: sample {} is of dataset {}, and there are {}: remove the cached index",
                     name(split()), i, id, datasets_.size());
  Sample sample = datasets_[static_cast<size_t>(id)]->get_item(index_.dataset_sample.integer(i));
  sample.dataset_id = static_cast<int32_t>(id);
  return sample;
}

}  // namespace viaduct::data
