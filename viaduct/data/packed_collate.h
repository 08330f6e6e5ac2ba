// Packed sequences as a batch, with the offsets that keep attention inside each example.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "viaduct/data/sft_collate.h"
#include "viaduct/data/sft_packing.h"

namespace viaduct::data {

/// One row to be: a pack, or one that only fills the batch and counts for no loss.
struct PackedItem {
  const PackedSequence* pack = nullptr;
  bool fills_batch = false;
};

/// B rows of S tokens; N offsets a row.
struct PackedBatch {
  IdRows tokens, labels, position_ids;  // [B, S]; positions begin anew with every example
  IdRows loss_mask;                     // [B, S]
  std::vector<int64_t> token_counts;    // [B] before the padding at the end of the row
  /// [B, N] where examples begin, then their end. What the examples' own padding does not count for, so that with
  /// pad_seq_to_mult > 1 the offsets are not places in the row: cu_seqlens_padded are those. The padding at the end
  /// of a row is an example of its own (in cu_seqlens an empty one, when there are cu_seqlens_padded). Rows with
  /// fewer offsets repeat their last.
  std::vector<std::vector<int32_t>> cu_seqlens;
  std::vector<std::vector<int32_t>> cu_seqlens_padded;  // [B, N]; empty unless pad_seq_to_mult > 1
  std::vector<int64_t> cu_seqlens_argmin;               // [B] offsets before the repeated ones
  std::vector<int32_t> max_seqlen;                      // [B] the longest example, or the longest of all data
};

/// How a batch is made; upstream's names.
struct PackedCollateOptions {
  PaddingOptions padding;        // max_seq_length is the pack size, pad_id the end of text
  bool answer_only_loss = true;  // else all but ends of texts
  int64_t pad_seq_to_mult = 1;   // as when the data were packed
  /// Offsets of every batch are equally many, for CUDA graphs; needs `metadata` and pad_to_max_length.
  bool pad_cu_seqlens = false;
  std::vector<PackingMetadata> metadata;
};

/// The rows as a batch, as upstream's collate_fn makes it: labels that are tokens of the end of text's position
/// count for no loss. UserError when a pack is longer than max_seq_length or the options do not fit each other.
PackedBatch collate_packed(std::span<const PackedItem> items, const PackedCollateOptions& options);

}  // namespace viaduct::data
