// What a dataset is to be, with upstream's names and defaults (megatron/core/datasets: BlendedMegatronDatasetConfig
// and GPTDatasetConfig).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/data/split.h"

namespace viaduct::data {

/// What datasets need to know of a tokenizer.
struct DatasetTokenizer {
  /// What tells one tokenizer from another. It is a part of the names of cached indexes: the same members in the
  /// same order as the tokenizer's `unique_identifiers` upstream give the same names.
  Json unique_identifiers = Json::object();
  int64_t eod = 0;                      // the token between documents
  std::optional<int64_t> pad;           // none: nothing is padding
  std::vector<int64_t> special_tokens;  // ids of its special tokens but the padding one; eod counts when empty
  int64_t vocab_size = 0;               // for mock data only
};

/// Paths of datasets without .bin and .idx, and how much of each. Without weights all of each, or as the request
/// allows.
struct Blend {
  std::vector<std::string> paths;
  std::optional<std::vector<double>> weights;  // one a path
};

/// One GPT dataset for each split. Where neither blend nor blend_per_split is given the data are mock data.
struct GPTDatasetConfig {
  int64_t random_seed = 1234;
  int64_t sequence_length = 0;
  std::optional<Blend> blend;                                          // with `split`
  std::optional<std::array<std::optional<Blend>, 3>> blend_per_split;  // instead of both
  std::optional<std::string> split;                                    // "99,1,0"
  bool multiple_validation_sets = false;  // the validation blend stays several datasets
  bool full_validation = false;           // with it: validation runs over each once
  int num_dataset_builder_threads = 1;    // paths of a blend whose indexes are built at the same time
  /// Folder for indexes. Without one they lie below each dataset, in PATH/cache/GPTDataset_indices, and those of
  /// blends are not kept.
  std::optional<std::string> path_to_cache;
  double mid_level_dataset_surplus = 0.005;  // what is drawn from each dataset of a blend beyond its share
  bool allow_ambiguous_pad_tokens = false;
  bool fast_cache_load = false;  // an index that is not in the cache is an error
  bool reset_position_ids = false;
  bool reset_attention_mask = false;
  bool eod_mask_loss = false;
  bool create_attention_mask = true;
  bool drop_last_partial_validation_sequence = true;
  bool add_extra_token_to_sequence = true;
  bool inter_document_masking = false;
  DatasetTokenizer tokenizer;

  /// True when no path is given.
  bool mock() const;
  /// The shares of the splits; nullopt with blend_per_split. UserError for a `split` that is none.
  std::optional<SplitMatrix> split_matrix() const;
  /// UserError naming the field for settings that contradict each other.
  void validate() const;
};

/// The blend of a command line: paths, or weights and paths in turns. UserError for a mixture of both.
Blend blend_from_list(const std::vector<std::string>& list);

}  // namespace viaduct::data
