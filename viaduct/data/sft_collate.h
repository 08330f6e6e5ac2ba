// Examples of unequal length as one batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/data/sft_example.h"

namespace viaduct::data {

/// Rows of ids of equal length, one after the other.
struct IdRows {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<int64_t> values;  // [rows, columns]

  /// Appends a row, filled up to `columns` with `padding`. InternalError when it is longer.
  void add(std::span<const int64_t> row, int64_t padding);
};

/// A batch for the model: labels are the ids that follow the tokens; B rows of S.
struct SftBatch {
  IdRows tokens, labels, position_ids;   // [B, S]
  IdRows loss_mask;                      // [B, S] 1 where the label counts
  IdRows contexts, answers;              // [B, S] prompts and answers alone, for generation
  std::vector<int64_t> context_lengths;  // [B]
  std::vector<int64_t> token_counts;     // [B] ids of the example
  std::vector<Json> metadata;            // [B]
};

/// How long rows are; upstream's names and defaults.
struct PaddingOptions {
  int64_t max_seq_length = 2048;
  int64_t pad_seq_length_to_mult = 16;
  bool pad_to_max_length = false;
  bool ceil_to_power_2 = false;  // instead of to a multiple
  int32_t pad_id = 0;            // upstream pads with the end of text
};
/// The length of rows whose longest has `longest` ids: a multiple (or a power of 2), at most max_seq_length.
int64_t padded_length(int64_t longest, const PaddingOptions& options);

/// How a batch is made.
struct CollateOptions {
  PaddingOptions padding;
  bool answer_only_loss = true;    // of examples without a loss mask of their own
  int64_t tokens_to_generate = 0;  // room behind the prompts
  /// Conversations: too long ones are cut, and rows are multiples of 16 at least.
  bool chat = false;
};

/// One an id: 1 where it counts for the loss.
std::vector<uint8_t> loss_mask_of(const SftExample& example, bool answer_only_loss);

/// The examples as a batch, as upstream's collate_fn makes it. InternalError for no examples; UserError when one
/// does not fit in max_seq_length.
SftBatch collate(std::span<const SftExample> examples, const CollateOptions& options);

}  // namespace viaduct::data
