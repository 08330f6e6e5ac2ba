// GptDataset: samples of one length, cut from the documents of one corpus (megatron-core's GPTDataset).
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "viaduct/data/config.h"
#include "viaduct/data/dataset.h"
#include "viaduct/data/gpt_index.h"
#include "viaduct/data/sequences.h"

namespace viaduct::data {

/// One split of one corpus.
class GptDataset : public Dataset {
 public:
  /// Loads the indexes from the cache, or builds them and saves them there. `path`: that of the .bin and .idx
  /// files; empty for mock data. `range`: the sequences of this split. `num_samples`: at least so many are built;
  /// none: one epoch. UserError when the files are broken, when the split has no tokens, and when the cache cannot
  /// be written.
  GptDataset(std::shared_ptr<const Sequences> sequences, std::string path, std::pair<int64_t, int64_t> range,
             std::optional<int64_t> num_samples, Split split, std::shared_ptr<const GPTDatasetConfig> config);

  int64_t size() const override { return index_.size(); }
  Sample get_item(int64_t i) const override;
  Sample padding_item() const override;
  Split split() const override { return split_; }
  Json unique_identifiers() const override;

  /// The three indexes.
  const GptIndex& index() const { return index_; }

 private:
  struct Text {
    std::vector<int64_t> tokens;            // sequence_length, and the extra one
    std::vector<int32_t> document_lengths;  // what each document gave, before padding
  };
  GptIndex load_or_build(std::pair<int64_t, int64_t> range) const;
  Text read_text(int64_t i) const;
  void add_document_masks(Text& text, Sample& sample) const;
  int64_t extra() const { return config_->add_extra_token_to_sequence; }

  std::shared_ptr<const Sequences> sequences_;
  std::string path_;
  std::optional<int64_t> num_samples_;
  Split split_;
  std::shared_ptr<const GPTDatasetConfig> config_;
  int64_t pad_;
  GptIndex index_;
};

/// The description's part that does not depend on the dataset: seed, length, split and tokenizer.
void add_config_identifiers(Json& identifiers, const GPTDatasetConfig& config);

}  // namespace viaduct::data
