// Dataset: numbered samples, which is all that samplers and training loops see of it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/data/split.h"

namespace viaduct::data {

/// One sample of sequence_length tokens, S.
struct Sample {
  std::vector<int64_t> tokens;        // [S]
  std::vector<int64_t> labels;        // [S] the token after each
  std::vector<float> loss_mask;       // [S] 0 where the label is padding (or the token eod, with eod_mask_loss)
  std::vector<int64_t> position_ids;  // [S]
  /// [1, S, S], row by row: 1 where a token (row) must not see another (column). Only with create_attention_mask.
  std::vector<uint8_t> attention_mask;
  /// [S + 1], with inter_document_masking: where documents begin, then S over and over; and the longest of them.
  std::vector<int32_t> cu_seqlens;
  int32_t max_seqlen = 0;
  /// Where tokens begin that do not see those before them, the first at 0; then S. With reset_attention_mask or
  /// inter_document_masking, and what an attention mask would say; empty: every token sees all before it.
  std::vector<int64_t> sequences;
  std::optional<int32_t> dataset_id;  // which dataset of a blend it comes from
};

/// Samples by their number. Does not change once made; several threads may read.
class Dataset {
 public:
  virtual ~Dataset() = default;
  /// Number of samples.
  virtual int64_t size() const = 0;
  /// Sample `i`; UserError for one that there is not, and when the files behind it are broken.
  virtual Sample get_item(int64_t i) const = 0;
  /// A sample of the same shape that counts for no loss, to fill a batch.
  virtual Sample padding_item() const = 0;
  /// The split whose samples they are.
  virtual Split split() const = 0;
  /// What tells this dataset from others, in the order in which its description has it.
  virtual Json unique_identifiers() const = 0;
};

}  // namespace viaduct::data
