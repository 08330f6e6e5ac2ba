// Several examples in one row: which go together, and what the row then holds (upstream's packing algorithms).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/data/sft_example.h"

namespace viaduct::data {

/// Several examples, one after the other. Each keeps its last id, which is only a label: a row of the model has one
/// token less for every example.
struct PackedSequence {
  std::vector<int32_t> input_ids;
  std::vector<uint8_t> loss_mask;     // one an id: 1 where the id behind it is to be learned
  std::vector<int64_t> seq_start_id;  // where each example begins; the first is 0
  friend bool operator==(const PackedSequence&, const PackedSequence&) = default;
};

/// What upstream writes beside packed sequences.
struct PackingMetadata {
  int64_t dataset_max_seqlen = 0;   // tokens of the longest example, without its last id
  int64_t max_samples_per_bin = 0;  // examples in a pack at most
  double packing_factor = 0;        // examples in a pack on average, to two decimals
  double packing_efficiency = 0;    // percent of pack_size that is used, to two decimals
  int64_t pack_size = 0;
  int64_t min_packed_seqlen = 0;
  /// Upstream's JSON object, and back; UserError that begins with `origin` for a key that is missing.
  Json to_json() const;
  /// As to_json.
  static PackingMetadata from_json(const Json& json, std::string_view origin);
};

/// How examples are put together.
enum class PackingAlgorithm { kFirstFitDecreasing, kFirstFitShuffle };
/// "first_fit_decreasing" or "first_fit_shuffle"; UserError for another name.
PackingAlgorithm parse_packing_algorithm(std::string_view name);

/// Lengths put into packs of at most `pack_size`: each into the first pack with room, else into a new one. A length
/// above pack_size gets a pack of its own. Takes n log n steps.
std::vector<std::vector<int64_t>> first_fit(std::span<const int64_t> lengths, int64_t pack_size);

/// Options of packing; upstream's names and defaults.
struct PackingOptions {
  int64_t packed_sequence_size = 2048;  // tokens of a pack at most
  int64_t max_seq_length = 2048;        // of an example; longer ones are left out
  PackingAlgorithm algorithm = PackingAlgorithm::kFirstFitShuffle;
  int64_t seed = 0;  // of numpy's random numbers
  /// Examples are padded to a multiple of this many tokens: 2 * context_parallel_size for context parallelism.
  int64_t pad_seq_to_mult = 1;
  int32_t pad_id = 0;  // the end of text

  /// Ids that formats may give an example: one more than max_seq_length where examples are padded, since the last
  /// one is only a label.
  int64_t max_example_ids() const { return max_seq_length + (pad_seq_to_mult > 1 ? 1 : 0); }
};

/// Examples in packs.
struct Packing {
  std::vector<PackedSequence> packs;
  PackingMetadata metadata;
  int64_t left_out = 0;  // examples longer than max_seq_length
};
/// Packs examples as upstream does: for the same seed the same packs, in the same order. UserError when no example
/// is left, or one is longer than a pack.
Packing pack_examples(std::vector<SftExample> examples, const PackingOptions& options);

}  // namespace viaduct::data
