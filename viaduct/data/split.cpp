#include "viaduct/data/split.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "viaduct/core/error.h"

namespace viaduct::data {

std::string_view name(Split split) {
  static constexpr std::string_view kNames[] = {"train", "valid", "test"};
  return kNames[static_cast<size_t>(split)];
}

double numpy_sum(std::span<const double> numbers) {
  const size_t n = numbers.size();
  if (n < 8) {
    double sum = 0;
    for (const double number : numbers) sum += number;
    return sum;
  }
  if (n > 128) {
    size_t half = n / 2;
    half -= half % 8;
    return numpy_sum(numbers.first(half)) + numpy_sum(numbers.subspan(half));
  }
  std::array<double, 8> r{};
  std::copy_n(numbers.begin(), 8, r.begin());
  size_t i = 8;
  for (; i + 8 <= n; i += 8)
    for (size_t lane = 0; lane < 8; ++lane) r[lane] += numbers[i + lane];
  double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
  for (; i < n; ++i) sum += numbers[i];
  return sum;
}

std::vector<double> normalize(std::span<const double> weights) {
  const double sum = numpy_sum(weights);
  std::vector<double> parts(weights.begin(), weights.end());
  for (double& part : parts) part /= sum;
  return parts;
}

SplitMatrix parse_split(std::string_view text) {
  constexpr std::string_view kDigits = ".0123456789";
  std::vector<double> parts;
  for (size_t at = text.find_first_of(kDigits); at != text.npos; at = text.find_first_of(kDigits, at)) {
    const size_t end = std::min(text.find_first_not_of(kDigits, at), text.size());
    double part = 0;
    const auto result = std::from_chars(text.data() + at, text.data() + end, part);
    VIADUCT_USER_CHECK(result.ec == std::errc() && result.ptr == text.data() + end,
                       "split \"{}\": {} is no number; a split is written like 99,1,0", text,
                       text.substr(at, end - at));
    parts.push_back(part);
    at = end;
  }
  VIADUCT_USER_CHECK(parts.size() <= kNumSplits, "split \"{}\": {} numbers, there are train, valid and test", text,
                     parts.size());
  parts.resize(kNumSplits);
  VIADUCT_USER_CHECK(numpy_sum(parts) > 0, "split \"{}\": nothing is above 0; a split is written like 99,1,0",
                     text);
  parts = normalize(parts);
  SplitMatrix matrix;
  double begin = 0;
  for (size_t i = 0; i < matrix.size(); ++i) {
    const double end = begin + parts[i];
    if (end > begin) matrix[i] = {begin, end};
    begin = end;
  }
  return matrix;
}

std::pair<int64_t, int64_t> split_range(std::pair<double, double> part, int64_t count) {
  // nearbyint: halves to even, as Python's round.
  const auto place = [&](double at) {
    return static_cast<int64_t>(std::nearbyint(at * static_cast<double>(count)));
  };
  return {place(part.first), place(part.second)};
}

}  // namespace viaduct::data
