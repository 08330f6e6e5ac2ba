#include "viaduct/data/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "viaduct/core/error.h"

namespace viaduct::data {

namespace {

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string stripped(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == text.npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin));
}

void check_blend(const Blend& blend, std::string_view field) {
  VIADUCT_USER_CHECK(!blend.paths.empty(), "dataset.{}: no path is given", field);
  if (!blend.weights) return;
  VIADUCT_USER_CHECK_EQ(blend.weights->size(), blend.paths.size(), "dataset.{}: one weight a path", field);
  for (size_t i = 0; i < blend.paths.size(); ++i)
    VIADUCT_USER_CHECK(std::isfinite((*blend.weights)[i]) && (*blend.weights)[i] > 0,
                       "dataset.{}: the weight of {} is {}; weights are above 0 (leave the path out instead)",
                       field, blend.paths[i], (*blend.weights)[i]);
}

}  // namespace

bool GPTDatasetConfig::mock() const {
  if (blend) return false;
  return !blend_per_split || std::none_of(blend_per_split->begin(), blend_per_split->end(),
                                          [](const auto& one) { return one.has_value(); });
}

std::optional<SplitMatrix> GPTDatasetConfig::split_matrix() const {
  if (mock()) return parse_split("1,1,1");
  if (!blend) return std::nullopt;
  return parse_split(*split);
}

void GPTDatasetConfig::validate() const {
  VIADUCT_USER_CHECK(sequence_length > 0 && sequence_length < (int64_t{1} << 31),
                     "dataset.seq_length is {}; it must be positive", sequence_length);
  VIADUCT_USER_CHECK(num_dataset_builder_threads > 0,
                     "dataset.num_dataset_builder_threads is {}; it must be positive", num_dataset_builder_threads);
  VIADUCT_USER_CHECK(mid_level_dataset_surplus >= 0,
                     "dataset.mid_level_dataset_surplus is {}; it must not be negative", mid_level_dataset_surplus);
  VIADUCT_USER_CHECK(!fast_cache_load || path_to_cache, "dataset.fast_cache_load needs dataset.path_to_cache");
  if (mock()) {
    VIADUCT_USER_CHECK(tokenizer.vocab_size > 0, "mock data need the size of the vocabulary, found {}",
                       tokenizer.vocab_size);
    return;
  }
  if (blend) {
    VIADUCT_USER_CHECK(!blend_per_split, "dataset.blend and dataset.blend_per_split are both given; use one");
    VIADUCT_USER_CHECK(split, "dataset.blend needs dataset.split, such as 99,1,0");
    return check_blend(*blend, "blend");
  }
  VIADUCT_USER_CHECK(!split,
                     "dataset.split is given and dataset.blend_per_split, which are splits already; use one");
  for (const Split one : kSplits)
    if (const auto& given = (*blend_per_split)[static_cast<size_t>(one)])
      check_blend(*given, fmt::format("blend_per_split ({})", name(one)));
}

Blend blend_from_list(const std::vector<std::string>& list) {
  Blend blend;
  std::vector<double> weights;
  if (list.size() % 2 == 0)
    for (size_t i = 0; i < list.size(); i += 2)
      if (const auto weight = number(stripped(list[i]))) weights.push_back(*weight);
  VIADUCT_USER_CHECK(
      weights.empty() || weights.size() * 2 == list.size(),
      "a blend is a list of paths, or weights and paths in turns: {} of {} places of weights hold numbers",
      weights.size(), list.size() / 2);
  const size_t step = weights.empty() ? 1 : 2;
  for (size_t i = step - 1; i < list.size(); i += step) blend.paths.push_back(stripped(list[i]));
  if (!weights.empty()) blend.weights = std::move(weights);
  return blend;
}

}  // namespace viaduct::data
