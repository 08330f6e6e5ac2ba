// Splits: which part of the documents each of train, valid and test gets.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace viaduct::data {

/// In upstream's order, which is that of all lists of three.
enum class Split : uint8_t { kTrain, kValid, kTest };
/// How many there are.
inline constexpr int kNumSplits = 3;
/// All of them.
inline constexpr std::array<Split, kNumSplits> kSplits = {Split::kTrain, Split::kValid, Split::kTest};

/// "train", "valid" or "test".
std::string_view name(Split split);

/// Where each split begins and ends, as parts of 1; nullopt for one that gets nothing.
using SplitMatrix = std::array<std::optional<std::pair<double, double>>, kNumSplits>;

/// The sum as numpy.sum rounds it: pairwise in blocks.
double numpy_sum(std::span<const double> numbers);
/// The numbers divided by their sum.
std::vector<double> normalize(std::span<const double> weights);

/// The splits of "99,1,0", "8/1/1" or "0.9": numbers in any units, those that are missing are 0. UserError for a
/// text with more than three numbers, with something that is no number, or with nothing above 0.
SplitMatrix parse_split(std::string_view text);

/// The elements [begin, end) of `count` that a part of 1 stands for; halves go to the even neighbour.
std::pair<int64_t, int64_t> split_range(std::pair<double, double> part, int64_t count);

}  // namespace viaduct::data
