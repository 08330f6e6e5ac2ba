// The three indexes of a GPT dataset, number for number as megatron-core builds them. The documents of all epochs
// lie one behind another in random order (document index), samples of one length are cut from that (sample index)
// and put in random order in their turn (shuffle index).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "viaduct/data/sequences.h"
#include "viaduct/formats/npy.h"

namespace viaduct::data {

/// The indexes, owned or mapped from a cache.
struct GptIndex {
  formats::NpyArray document;  // [documents of all epochs] int32: numbers of sequences
  formats::NpyArray
      sample;  // [samples + 1, 2] int32 or int64: where each begins, in `document` and within a sequence
  formats::NpyArray shuffle;  // [samples] uint32 or int64: numbers of rows of `sample`

  /// Number of samples.
  int64_t size() const { return shuffle.size(); }
};

/// What the indexes are built for.
struct GptIndexRequest {
  std::pair<int64_t, int64_t> sequences;  // which of them, [begin, end)
  std::optional<int64_t> num_samples;     // at least so many; none: one epoch
  int64_t sequence_length = 0;
  int64_t random_seed = 0;
  bool drop_last_partial_sequence = true;
  bool add_extra_token_to_sequence = true;
  std::string origin;  // of the sequences, for messages
};

/// How often the sequences are gone through, and whether the last time is shuffled for itself (it is needed for
/// less than 80 percent of its samples).
struct EpochPlan {
  int64_t tokens_per_epoch = 0;
  int64_t num_epochs = 1;
  bool separate_final_epoch = false;
  int64_t samples_sans_final_epoch = 0;  // counted when it is separate
};

/// For sequences of these lengths, those of the request. UserError when there are no tokens to make a sample of,
/// and when an index would be larger than its format allows.
EpochPlan plan_epochs(std::span<const int32_t> lengths, const GptIndexRequest& request);
/// Builds all three. UserError as plan_epochs, and for sequences that contradict themselves.
GptIndex build_gpt_index(const Sequences& sequences, const GptIndexRequest& request);

}  // namespace viaduct::data
