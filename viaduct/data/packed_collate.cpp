#include "viaduct/data/packed_collate.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::data {
namespace {

// The examples of a pack: [begin, end) of its ids. The last id of each is only a label.
struct Span {
  size_t begin, end;
  size_t tokens() const { return end - begin - 1; }
};

std::vector<Span> spans_of(const PackedSequence& pack) {
  std::vector<Span> spans;
  for (size_t i = 0; i < pack.seq_start_id.size(); ++i) {
    const bool last = i + 1 == pack.seq_start_id.size();
    spans.push_back({static_cast<size_t>(pack.seq_start_id[i]),
                     last ? pack.input_ids.size() : static_cast<size_t>(pack.seq_start_id[i + 1])});
  }
  return spans;
}

int64_t tokens_of(const PackedSequence& pack) {
  return static_cast<int64_t>(pack.input_ids.size() - pack.seq_start_id.size());
}

// Tokens up to the last that is no end of text.
size_t logical_length(const PackedSequence& pack, const Span& span, int32_t end_of_text) {
  size_t length = span.tokens();
  while (length > 0 && pack.input_ids[span.begin + length - 1] == end_of_text) --length;
  return length;
}

// One row's offsets, logical and physical.
struct Offsets {
  std::vector<int32_t> logical, physical;
};

Offsets offsets_of(const PackedSequence& pack, int64_t columns, const PackedCollateOptions& options) {
  Offsets offsets{{0}, {0}};
  for (const Span& span : spans_of(pack)) {
    offsets.physical.push_back(offsets.physical.back() + static_cast<int32_t>(span.tokens()));
    offsets.logical.push_back(offsets.logical.back() +
                              static_cast<int32_t>(logical_length(pack, span, options.padding.pad_id)));
  }
  if (offsets.physical.back() != columns) {
    offsets.physical.push_back(static_cast<int32_t>(columns));
    offsets.logical.push_back(offsets.logical.back());
  }
  return offsets;
}

template <class T>
T largest(const std::vector<PackingMetadata>& metadata, T PackingMetadata::*member) {
  T value{};
  for (const PackingMetadata& one : metadata) value = std::max(value, one.*member);
  return value;
}

void check(const PackedCollateOptions& options) {
  VIADUCT_USER_CHECK(options.pad_seq_to_mult >= 1, "pad_seq_to_mult is {}; it must be 1 or more",
                     options.pad_seq_to_mult);
  if (!options.pad_cu_seqlens) return;
  VIADUCT_USER_CHECK(!options.metadata.empty(),
                     "pad_cu_seqlens needs the metadata of the packed data "
                     "(packed_metadata_path)");
  VIADUCT_USER_CHECK(options.padding.pad_to_max_length,
                     "pad_cu_seqlens needs dataset_kwargs.pad_to_max_length=true");
}

void add_row(const PackedItem& item, const PackedCollateOptions& options, PackedBatch& batch) {
  const PackedSequence& pack = *item.pack;
  const int32_t end_of_text = options.padding.pad_id;
  std::vector<int64_t> tokens, labels, mask, positions;
  for (const Span& span : spans_of(pack)) {
    for (size_t i = span.begin; i + 1 < span.end; ++i) {
      const int32_t id = pack.input_ids[i];
      const bool counts =
          !item.fills_batch && id != end_of_text && (!options.answer_only_loss || pack.loss_mask[i]);
      tokens.push_back(id);
      labels.push_back(pack.input_ids[i + 1]);
      mask.push_back(counts);
      positions.push_back(static_cast<int64_t>(i - span.begin));
    }
  }
  batch.token_counts.push_back(static_cast<int64_t>(tokens.size()));
  batch.tokens.add(tokens, end_of_text);
  batch.labels.add(labels, end_of_text);
  batch.loss_mask.add(mask, 0);
  batch.position_ids.add(positions, 0);
}

}  // namespace

PackedBatch collate_packed(std::span<const PackedItem> items, const PackedCollateOptions& options) {
  VIADUCT_CHECK(!items.empty(), "a batch without packs");
  check(options);
  int64_t longest = 0;
  for (const PackedItem& item : items) longest = std::max(longest, tokens_of(*item.pack));
  VIADUCT_USER_CHECK_LE(longest, options.padding.max_seq_length,
                        "a pack has more tokens than packed_sequence_size: pack the data again");
  const int64_t columns = padded_length(longest, options.padding);

  PackedBatch batch;
  for (IdRows* rows : {&batch.tokens, &batch.labels, &batch.loss_mask, &batch.position_ids})
    rows->columns = columns;
  const bool padded = options.pad_seq_to_mult > 1;
  size_t most = 0;
  for (const PackedItem& item : items) {
    add_row(item, options, batch);
    Offsets offsets = offsets_of(*item.pack, columns, options);
    if (options.pad_cu_seqlens) {
      // 2 more than examples: the 0 in front, and the padding at the end of the row.
      const auto count = static_cast<size_t>(largest(options.metadata, &PackingMetadata::max_samples_per_bin)) + 2;
      VIADUCT_USER_CHECK_LE(offsets.physical.size(), count,
                            "a pack has more examples than the metadata say: pack the data again");
      offsets.physical.resize(count, static_cast<int32_t>(columns));
      offsets.logical.resize(count, offsets.logical.back());
    }
    int32_t length = 0;
    for (size_t i = 1; i < offsets.physical.size(); ++i)
      length = std::max(length, offsets.physical[i] - offsets.physical[i - 1]);
    batch.max_seqlen.push_back(length);
    batch.cu_seqlens_argmin.push_back(static_cast<int64_t>(offsets.physical.size()));
    most = std::max(most, offsets.physical.size());
    batch.cu_seqlens.push_back(padded ? std::move(offsets.logical) : offsets.physical);
    if (padded) batch.cu_seqlens_padded.push_back(std::move(offsets.physical));
  }
  for (auto* rows : {&batch.cu_seqlens, &batch.cu_seqlens_padded})
    for (std::vector<int32_t>& row : *rows) row.resize(most, row.back());
  if (options.pad_cu_seqlens) {
    // One number for all batches; the padding at the end of the emptiest pack counts as an example, too.
    int64_t emptiest = columns;
    for (const PackingMetadata& one : options.metadata) emptiest = std::min(emptiest, one.min_packed_seqlen);
    const int64_t length =
        std::max(largest(options.metadata, &PackingMetadata::dataset_max_seqlen), columns - emptiest);
    std::fill(batch.max_seqlen.begin(), batch.max_seqlen.end(), static_cast<int32_t>(length));
  }
  return batch;
}

}  // namespace viaduct::data
