#include "viaduct/data/sft_collate.h"

#include <algorithm>
#include <bit>

#include "viaduct/core/error.h"

namespace viaduct::data {

void IdRows::add(std::span<const int64_t> row, int64_t padding) {
  VIADUCT_CHECK_LE(static_cast<int64_t>(row.size()), columns);
  values.insert(values.end(), row.begin(), row.end());
  ++rows;
  values.resize(static_cast<size_t>(rows * columns), padding);
}

int64_t padded_length(int64_t longest, const PaddingOptions& options) {
  if (options.pad_to_max_length) return options.max_seq_length;
  const int64_t multiple = options.pad_seq_length_to_mult;
  VIADUCT_USER_CHECK(multiple >= 1, "pad_seq_length_to_mult is {}; it must be 1 or more", multiple);
  const int64_t padded =
      options.ceil_to_power_2
          ? static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(longest, 1))))
          : (longest + multiple - 1) / multiple * multiple;
  return std::min(options.max_seq_length, padded);
}

std::vector<uint8_t> loss_mask_of(const SftExample& example, bool answer_only_loss) {
  std::vector<uint8_t> mask(example.input_ids.size(), 0);
  if (example.fills_batch) return mask;
  if (!example.loss_mask.empty()) return example.loss_mask;
  const size_t begin = answer_only_loss ? static_cast<size_t>(example.context_length) : 0;
  std::fill(mask.begin() + static_cast<ptrdiff_t>(std::min(begin, mask.size())), mask.end(), uint8_t{1});
  return mask;
}

SftBatch collate(std::span<const SftExample> examples, const CollateOptions& options) {
  VIADUCT_CHECK(!examples.empty(), "a batch without examples");
  const int64_t most = options.padding.max_seq_length;
  int64_t longest = 0;
  for (const SftExample& example : examples) {
    const auto tokens = static_cast<int64_t>(example.input_ids.size()) - 1;
    VIADUCT_USER_CHECK(options.chat || tokens <= most, "an example has {} tokens, more than seq_length {}", tokens,
                       most);
    longest = std::max({longest, tokens, example.context_length + options.tokens_to_generate});
  }
  PaddingOptions padding = options.padding;
  if (options.chat) padding.pad_seq_length_to_mult = std::max<int64_t>(16, padding.pad_seq_length_to_mult);
  const int64_t columns = padded_length(std::min(longest, most), padding);

  SftBatch batch;
  for (IdRows* rows :
       {&batch.tokens, &batch.labels, &batch.position_ids, &batch.loss_mask, &batch.contexts, &batch.answers})
    rows->columns = columns;
  std::vector<int64_t> row;
  // `count` ids from `begin` on, as far as a row may be.
  const auto add = [&](IdRows& to, const auto& ids, int64_t begin, int64_t count, int64_t pad) {
    const auto from = ids.begin() + static_cast<ptrdiff_t>(begin);
    row.assign(from, from + static_cast<ptrdiff_t>(std::min(count, most)));
    to.add(row, pad);
  };
  std::vector<int64_t> positions(static_cast<size_t>(columns));
  for (int64_t i = 0; i < columns; ++i) positions[static_cast<size_t>(i)] = i;
  for (const SftExample& example : examples) {
    const auto size = static_cast<int64_t>(example.input_ids.size());
    add(batch.tokens, example.input_ids, 0, size - 1, padding.pad_id);
    add(batch.labels, example.input_ids, 1, size - 1, padding.pad_id);
    add(batch.loss_mask, loss_mask_of(example, options.answer_only_loss), 1, size - 1, 0);
    batch.position_ids.add(positions, 0);
    add(batch.contexts, example.input_ids, 0, example.context_length, padding.pad_id);
    add(batch.answers, example.input_ids, example.context_length, example.answer_length, padding.pad_id);
    batch.context_lengths.push_back(std::min(example.context_length, options.chat ? most : example.context_length));
    batch.token_counts.push_back(size);
    batch.metadata.push_back(example.metadata);
  }
  return batch;
}

}  // namespace viaduct::data
