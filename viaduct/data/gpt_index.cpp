#include "viaduct/data/gpt_index.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "viaduct/core/error.h"
#include "viaduct/data/random.h"

namespace viaduct::data {

using formats::NpyArray;

namespace {

constexpr int64_t kMostInt32 = std::numeric_limits<int32_t>::max();

// The sequences of `epochs` epochs in random order, at the end of `index`.
void append_epochs(std::vector<int32_t>& index, std::pair<int64_t, int64_t> sequences, int64_t epochs,
                   NumpyRandomState& random) {
  const size_t before = index.size();
  const auto count = static_cast<size_t>(sequences.second - sequences.first);
  index.resize(before + count * static_cast<size_t>(epochs));
  for (size_t at = before; at < index.size(); at += count)
    std::iota(index.begin() + static_cast<ptrdiff_t>(at), index.begin() + static_cast<ptrdiff_t>(at + count),
              static_cast<int32_t>(sequences.first));
  random.shuffle(std::span(index).subspan(before));
}

int64_t count_samples(const EpochPlan& plan, const GptIndexRequest& request) {
  const int64_t tokens = plan.num_epochs * plan.tokens_per_epoch - request.add_extra_token_to_sequence;
  if (tokens <= 0) return 0;
  if (request.drop_last_partial_sequence) return tokens / request.sequence_length;
  // Rounded as upstream does, in single precision.
  return static_cast<int64_t>(
      std::ceil(static_cast<float>(tokens) / static_cast<float>(static_cast<int32_t>(request.sequence_length))));
}

template <class T>
NpyArray build_sample_index(std::span<const int32_t> lengths, std::span<const int32_t> documents,
                            int64_t num_samples, const GptIndexRequest& request) {
  const int64_t extra = request.add_extra_token_to_sequence, first = request.sequences.first;
  std::vector<T> index(2 * static_cast<size_t>(num_samples + 1));
  size_t document = 0;
  int64_t offset = 0;
  for (size_t sample = 1; sample <= static_cast<size_t>(num_samples); ++sample) {
    int64_t missing = request.sequence_length + extra;
    while (missing > 0) {
      const int64_t length = lengths[static_cast<size_t>(documents[document] - first)], left = length - offset;
      if (left >= missing) {
        offset += missing - extra;  // the extra token is the next sample's first
        break;
      }
      missing -= left;
      if (document + 1 == documents.size()) {
        offset = length - extra;  // the last sample is partial
        break;
      }
      ++document;
      offset = 0;
    }
    index[2 * sample] = static_cast<T>(document);
    index[2 * sample + 1] = static_cast<T>(offset);
  }
  return {std::move(index), sizeof(T) == 4 ? DType::kI32 : DType::kI64, {num_samples + 1, 2}};
}

template <class T>
NpyArray build_shuffle_index(int64_t first, int64_t total, NumpyRandomState& random) {
  std::vector<T> index(static_cast<size_t>(total));
  std::iota(index.begin(), index.end(), T{0});
  const std::span<T> all(index);
  random.shuffle(all.first(static_cast<size_t>(first)));
  random.shuffle(all.subspan(static_cast<size_t>(first)));
  return {std::move(index), sizeof(T) == 4 ? DType::kU32 : DType::kI64, {total}};
}

}  // namespace

EpochPlan plan_epochs(std::span<const int32_t> lengths, const GptIndexRequest& request) {
  const int64_t extra = request.add_extra_token_to_sequence, length = request.sequence_length;
  EpochPlan plan;
  plan.tokens_per_epoch = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  if (!request.num_samples) return plan;
  VIADUCT_USER_CHECK(*request.num_samples >= 0 && *request.num_samples < (int64_t{1} << 62) / length,
                     "{}: {} samples of {} tokens cannot be drawn", request.origin, *request.num_samples, length);
  const int64_t wanted = *request.num_samples * length + extra;
  VIADUCT_USER_CHECK(
      plan.tokens_per_epoch > 0 || wanted == 0,
      "{}: {} samples are wanted, and the {} sequences of this split have no tokens: give the split more "
      "documents, or ask for no samples",
      request.origin, *request.num_samples, lengths.size());
  if (wanted > plan.tokens_per_epoch)
    plan.num_epochs = (wanted + plan.tokens_per_epoch - 1) / plan.tokens_per_epoch;
  VIADUCT_USER_CHECK(plan.num_epochs <= kMostInt32,
                     "{}: {} samples are {} epochs of the {} tokens of this split, more than an index can hold",
                     request.origin, *request.num_samples, plan.num_epochs, plan.tokens_per_epoch);
  if (plan.num_epochs == 1) return plan;
  plan.samples_sans_final_epoch = ((plan.num_epochs - 1) * plan.tokens_per_epoch - extra) / length;
  const int64_t from_final = *request.num_samples - plan.samples_sans_final_epoch;
  const int64_t per_epoch = (plan.tokens_per_epoch - extra) / length;
  VIADUCT_CHECK(from_final >= 0 && from_final <= per_epoch + 1, "{} of {} samples", from_final, per_epoch);
  plan.separate_final_epoch = from_final < static_cast<int64_t>(0.80 * static_cast<double>(per_epoch));
  return plan;
}

GptIndex build_gpt_index(const Sequences& sequences, const GptIndexRequest& request) {
  sequences.validate();
  const auto [begin, end] = request.sequences;
  VIADUCT_USER_CHECK(end <= kMostInt32, "{}: {} sequences, an index counts up to {}", request.origin, end,
                     kMostInt32);
  std::vector<int32_t> lengths;
  lengths.reserve(static_cast<size_t>(end - begin));
  for (int64_t i = begin; i < end; ++i) lengths.push_back(sequences.length(i));
  const EpochPlan plan = plan_epochs(lengths, request);
  NumpyRandomState random(request.random_seed);

  const int64_t per_epoch = end - begin;
  std::vector<int32_t> documents;
  documents.reserve(static_cast<size_t>(per_epoch * plan.num_epochs));
  append_epochs(documents, request.sequences, plan.num_epochs - plan.separate_final_epoch, random);
  if (plan.separate_final_epoch) append_epochs(documents, request.sequences, 1, random);

  GptIndex index;
  const int64_t samples = count_samples(plan, request), count = static_cast<int64_t>(documents.size());
  index.sample = count <= kMostInt32 ? build_sample_index<int32_t>(lengths, documents, samples, request)
                                     : build_sample_index<int64_t>(lengths, documents, samples, request);
  const int64_t first = plan.separate_final_epoch ? plan.samples_sans_final_epoch : samples;
  // upstream's bound for the smaller type
  index.shuffle = samples < int64_t{std::numeric_limits<uint32_t>::max()} - 1
                      ? build_shuffle_index<uint32_t>(first, samples, random)
                      : build_shuffle_index<int64_t>(first, samples, random);
  index.document = NpyArray(std::move(documents), DType::kI32, {count});
  return index;
}

}  // namespace viaduct::data
