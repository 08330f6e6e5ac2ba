// What the section dataset of fine-tuning says of lines: how they become tokens, and how long rows are.
#pragma once

#include <memory>
#include <optional>

#include "viaduct/config/config_container.h"
#include "viaduct/data/sft_collate.h"
#include "viaduct/text/tokenizer.h"

namespace viaduct::training {

/// dataset_kwargs by upstream's names and defaults. UserError for a key that there is not.
struct SftSettings {
  bool chat = false;
  std::string chat_loss_mode = "assistant";
  Json tool_schemas;
  std::string prompt_template = "{input} {output}";
  std::string label_key = "output";
  std::string truncation_field = "input";
  std::string truncation_method = "right";
  bool answer_only_loss = true;
  bool add_bos = false;
  bool add_eos = true;
  bool add_sep = false;
  bool pad_to_max_length = false;
  int64_t pad_seq_length_to_mult = 16;
  bool ceil_to_power_2 = false;
  /// dataset.preprocessing of pairs, which then says instead of the keys above how lines are read.
  std::optional<config::PromptCompletionSFTPreprocessingConfig> pair;
};

/// From dataset.dataset_kwargs and dataset.preprocessing; UserError when both say how lines are read.
SftSettings sft_settings(const config::GPTSFTDatasetConfig& dataset);

/// Lines to examples of at most dataset.seq_length tokens. `may_lack`: a line may have no answer (of a test set).
/// The tokenizer lives as long as the format.
std::unique_ptr<data::SftFormat> make_sft_format(const config::GPTSFTDatasetConfig& dataset,
                                                 const SftSettings& settings,
                                                 std::shared_ptr<const text::Tokenizer> tokenizer, bool may_lack);

/// How rows are padded, so that `cut` ranks (of sequence parallelism) can share them.
data::CollateOptions sft_collate_options(const config::GPTSFTDatasetConfig& dataset, const SftSettings& settings,
                                         const text::Tokenizer& tokenizer, int64_t cut);

}  // namespace viaduct::training
