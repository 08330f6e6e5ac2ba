#include "viaduct/data/build.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <thread>

#include "viaduct/core/error.h"
#include "viaduct/data/blended_dataset.h"
#include "viaduct/data/gpt_dataset.h"

namespace viaduct::data {

namespace {

using DatasetPointer = std::shared_ptr<const Dataset>;
using OneEach = std::array<DatasetPointer, kNumSplits>;

// Calls work(i) for all i < count from at most `threads` threads; the first error ends the work and is thrown
// again.
template <class Work>
void for_each_parallel(size_t count, int threads, Work&& work) {
  std::atomic<size_t> next = 0;
  std::vector<std::exception_ptr> errors(count);
  std::atomic<bool> failed = false;
  const auto run = [&] {
    for (size_t i; !failed && (i = next++) < count;) {
      try {
        work(i);
      } catch (...) {
        errors[i] = std::current_exception();
        failed = true;
      }
    }
  };
  std::vector<std::thread> helpers;
  const size_t wanted = std::min(static_cast<size_t>(threads), count);
  while (helpers.size() + 1 < wanted) helpers.emplace_back(run);
  run();
  for (std::thread& helper : helpers) helper.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

class Builder {
 public:
  Builder(const GPTDatasetConfig& config, const SplitSizes& sizes)
      : config_(std::make_shared<const GPTDatasetConfig>(config)), sizes_(sizes) {}

  DatasetSplits build() const {
    DatasetSplits splits;
    if (config_->mock() || config_->blend) {
      const SplitMatrix matrix = *config_->split_matrix();
      OneEach datasets =
          config_->mock() ? build_corpus("", matrix, sizes_) : build_blend(*config_->blend, matrix, sizes_);
      for (size_t i = 0; i < splits.size(); ++i)
        if (datasets[i]) splits[i].push_back(std::move(datasets[i]));
      return splits;
    }
    for (size_t i = 0; i < splits.size(); ++i)
      if (const auto& blend = (*config_->blend_per_split)[i]) splits[i] = build_split(*blend, i);
    return splits;
  }

 private:
  // A split that has its own blend takes all documents of it.
  std::vector<DatasetPointer> build_split(const Blend& blend, size_t split) const {
    SplitMatrix matrix;
    matrix[split] = {0.0, 1.0};
    SplitSizes sizes = {0, 0, 0};
    sizes[split] = sizes_[split];
    if (blend.paths.size() == 1) return {build_corpus(blend.paths[0], matrix, sizes)[split]};
    if (config_->multiple_validation_sets && kSplits[split] == Split::kValid) {
      VIADUCT_USER_CHECK(!config_->full_validation || !sizes[split],
                         "dataset.full_validation goes once over each validation set; {} samples are asked for",
                         sizes[split].value_or(0));
      std::vector<DatasetPointer> datasets;
      for (const std::string& path : blend.paths) datasets.push_back(build_corpus(path, matrix, sizes)[split]);
      return datasets;
    }
    return {build_blend(blend, matrix, sizes)[split]};
  }

  OneEach build_blend(const Blend& blend, const SplitMatrix& matrix, const SplitSizes& sizes) const {
    if (blend.paths.size() == 1 && !blend.weights) return build_corpus(blend.paths[0], matrix, sizes);
    std::vector<double> shares;
    if (blend.weights) shares = normalize(*blend.weights);
    for (const Split split : kSplits)
      VIADUCT_USER_CHECK(!blend.weights || sizes[static_cast<size_t>(split)],
                         "the {} blend has weights, and no number of samples to share out: give one, or leave the "
                         "weights out",
                         name(split));
    std::vector<OneEach> corpora(blend.paths.size());
    for_each_parallel(blend.paths.size(), config_->num_dataset_builder_threads, [&](size_t i) {
      SplitSizes wanted;
      if (blend.weights)
        for (size_t split = 0; split < wanted.size(); ++split)
          wanted[split] = samples_of_share(*sizes[split], shares[i], config_->mid_level_dataset_surplus);
      corpora[i] = build_corpus(blend.paths[i], matrix, wanted);
    });
    OneEach blended;
    for (size_t split = 0; split < blended.size(); ++split) {
      if (!matrix[split]) continue;
      std::vector<DatasetPointer> datasets;
      for (const OneEach& corpus : corpora) datasets.push_back(corpus[split]);
      blended[split] = blend_split(std::move(datasets), shares, sizes[split]);
    }
    return blended;
  }

  DatasetPointer blend_split(std::vector<DatasetPointer> datasets, const std::vector<double>& shares,
                             std::optional<int64_t> size) const {
    if (!shares.empty()) {
      int64_t total = 0;
      for (const double share : shares) total += samples_of_share(*size, share, 0.0);
      return std::make_shared<BlendedDataset>(std::move(datasets), shares, total, *config_);
    }
    std::vector<int64_t> lengths;
    int64_t total = 0;
    for (const DatasetPointer& dataset : datasets) total += lengths.emplace_back(dataset->size());
    if (size) size = std::min(*size, total);
    return std::make_shared<BlendedDataset>(std::move(datasets), std::move(lengths), size, *config_);
  }

  OneEach build_corpus(const std::string& path, const SplitMatrix& matrix, const SplitSizes& sizes) const {
    std::shared_ptr<const Sequences> sequences;
    if (config_->mock()) {
      sequences = std::make_shared<MockSequences>(config_->tokenizer.vocab_size, config_->tokenizer.eod);
    } else {
      sequences = std::make_shared<IndexedSequences>(path);
    }
    OneEach datasets;
    for (const Split split : kSplits) {
      const auto i = static_cast<size_t>(split);
      if (!matrix[i]) continue;
      datasets[i] = std::make_shared<GptDataset>(sequences, path, split_range(*matrix[i], sequences->size()),
                                                 sizes[i], split, config_);
    }
    return datasets;
  }

  std::shared_ptr<const GPTDatasetConfig> config_;
  SplitSizes sizes_;
};

}  // namespace

int64_t samples_of_share(int64_t size, double share, double surplus) {
  return static_cast<int64_t>(std::ceil(std::ceil(static_cast<double>(size) * share) * (1 + surplus)));
}

DatasetSplits build_gpt_datasets(const GPTDatasetConfig& config, const SplitSizes& sizes) {
  config.validate();
  return Builder(config, sizes).build();
}

}  // namespace viaduct::data
