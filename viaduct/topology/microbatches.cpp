#include "viaduct/topology/microbatches.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "viaduct/core/error.h"

namespace viaduct::topology {
namespace {

// "250B": a number, its fraction cut off, times a power of ten.
int64_t parse_count(std::string_view text, const std::string& schedule) {
  const std::string_view whole = text;
  double factor = 1;
  if (!text.empty()) {
    switch (text.back()) {
      case 'K':
      case 'k': factor = 1e3; break;
      case 'M':
      case 'm': factor = 1e6; break;
      case 'B':
      case 'b': factor = 1e9; break;
      case 'T':
      case 't': factor = 1e12; break;
      default: break;
    }
    if (factor > 1) text.remove_suffix(1);
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const double count = value * factor;
  VIADUCT_USER_CHECK(error == std::errc() && end == text.data() + text.size() && count >= 0 && count < 9e18,
                     "train.step_batch_size_schedule '{}': '{}' is no number such as 768, 1.5K or 250B", schedule,
                     whole);
  return static_cast<int64_t>(count);
}

std::vector<std::pair<int64_t, int64_t>> parse_steps(const std::string& schedule,
                                                     std::optional<int64_t> seq_length) {
  VIADUCT_USER_CHECK(!seq_length || *seq_length > 0, "the sequence length is {}; it must be 1 or more",
                     *seq_length);
  std::vector<std::pair<int64_t, int64_t>> steps;
  std::string_view rest = schedule;
  constexpr std::string_view kSeparators = " ,\t\n\r";
  for (;;) {
    rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(kSeparators)));
    if (rest.empty()) break;
    const std::string_view entry = rest.substr(0, rest.find_first_of(kSeparators));
    rest.remove_prefix(entry.size());
    const size_t colon = entry.find(':');
    VIADUCT_USER_CHECK(colon != std::string_view::npos,
                       "train.step_batch_size_schedule '{}': '{}' is not of the form SAMPLES:BATCH_SIZE", schedule,
                       entry);
    const int64_t threshold = parse_count(entry.substr(0, colon), schedule);
    const int64_t size = parse_count(entry.substr(colon + 1), schedule);
    VIADUCT_USER_CHECK(size > 0, "train.step_batch_size_schedule '{}': the batch size of '{}' is 0", schedule,
                       entry);
    steps.emplace_back(seq_length ? threshold / *seq_length : threshold, size);
  }
  std::stable_sort(steps.begin(), steps.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  VIADUCT_USER_CHECK(!steps.empty() && steps[0].first == 0,
                     "train.step_batch_size_schedule '{}' does not say which batch size training begins with: its "
                     "first entry must be 0:BATCH_SIZE",
                     schedule);
  for (size_t i = 1; i < steps.size(); ++i)
    VIADUCT_USER_CHECK(steps[i].first > steps[i - 1].first,
                       "train.step_batch_size_schedule '{}' has two entries from {} samples on", schedule,
                       steps[i].first);
  return steps;
}

void check_rampup(const std::vector<int64_t>& rampup, int64_t global) {
  VIADUCT_USER_CHECK(rampup.size() == 3,
                     "train.rampup_batch_size has {} numbers; it is [first batch size, increment, samples]",
                     rampup.size());
  VIADUCT_USER_CHECK(rampup[0] > 0 && rampup[1] > 0 && rampup[2] > 0,
                     "train.rampup_batch_size is [{}, {}, {}]; all three must be 1 or more", rampup[0], rampup[1],
                     rampup[2]);
  VIADUCT_USER_CHECK_LT(rampup[0], global,
                        "train.rampup_batch_size begins with a batch that is not below train.global_batch_size");
  VIADUCT_USER_CHECK(
      (global - rampup[0]) % rampup[1] == 0,
      "train.rampup_batch_size goes from {} in steps of {}, which never gives train.global_batch_size "
      "{}: choose an increment that divides {}",
      rampup[0], rampup[1], global, global - rampup[0]);
}

}  // namespace

BatchSchedule::BatchSchedule(const BatchOptions& options) : options_(options) {
  const BatchOptions& o = options_;
  VIADUCT_USER_CHECK(o.micro_batch_size >= 1, "train.micro_batch_size is {}; it must be 1 or more",
                     o.micro_batch_size);
  VIADUCT_USER_CHECK(o.data_parallel_size >= 1, "the data parallel size is {}; it must be 1 or more",
                     o.data_parallel_size);
  VIADUCT_USER_CHECK(o.micro_batch_size <= (int64_t{1} << 31) && o.data_parallel_size <= (int64_t{1} << 31),
                     "train.micro_batch_size {} or the data parallel size {} is absurd", o.micro_batch_size,
                     o.data_parallel_size);
  if (o.step_batch_size_schedule) {
    VIADUCT_USER_CHECK(!o.rampup_batch_size,
                       "train.rampup_batch_size and train.step_batch_size_schedule are both set; set one");
    VIADUCT_USER_CHECK(!o.decrease_batch_size_if_needed,
                       "train.decrease_batch_size_if_needed cannot be used with train.step_batch_size_schedule");
    steps_ = parse_steps(*o.step_batch_size_schedule, o.seq_length);
    options_.global_batch_size = steps_.back().second;
  }
  if (!options_.global_batch_size) options_.global_batch_size = o.micro_batch_size * o.data_parallel_size;
  VIADUCT_USER_CHECK(*o.global_batch_size >= 1, "train.global_batch_size is {}; it must be 1 or more",
                     *o.global_batch_size);
  if (o.rampup_batch_size) check_rampup(*o.rampup_batch_size, *o.global_batch_size);
  if (is_constant()) at(0);
}

int64_t BatchSchedule::global_at(int64_t consumed_samples) const {
  if (!steps_.empty()) {
    int64_t size = steps_[0].second;
    for (const auto& [threshold, from_there] : steps_)
      if (consumed_samples >= threshold) size = from_there;
    return size;
  }
  const int64_t global = *options_.global_batch_size;
  if (!options_.rampup_batch_size) return global;
  const std::vector<int64_t>& ramp = *options_.rampup_batch_size;
  if (consumed_samples > ramp[2]) return global;
  // Floating point as in megatron-core: a resumed run changes its batch size at the same sample.
  const double samples_per_increment =
      static_cast<double>(ramp[2]) / static_cast<double>((global - ramp[0]) / ramp[1]);
  const auto increments = static_cast<int64_t>(static_cast<double>(consumed_samples) / samples_per_increment);
  return std::min(ramp[0] + increments * ramp[1], global);
}

BatchSizes BatchSchedule::at(int64_t consumed_samples) const {
  VIADUCT_CHECK(consumed_samples >= 0, "{} consumed samples", consumed_samples);
  const int64_t share = options_.micro_batch_size * options_.data_parallel_size;
  BatchSizes sizes{global_at(consumed_samples), 0, 0};
  const auto where = [&] {
    return is_constant() ? std::string() : fmt::format(" (after {} samples)", consumed_samples);
  };
  VIADUCT_USER_CHECK(
      options_.decrease_batch_size_if_needed || sizes.global % share == 0,
      "the global batch size {}{} cannot be divided by micro_batch_size ({}) * data parallel size ({}) = "
      "{}: change train.global_batch_size or train.micro_batch_size, or set "
      "train.decrease_batch_size_if_needed=true",
      sizes.global, where(), options_.micro_batch_size, options_.data_parallel_size, share);
  sizes.num_microbatches = sizes.global / share;
  sizes.running = sizes.num_microbatches * share;
  VIADUCT_USER_CHECK(
      sizes.num_microbatches >= 1,
      "the global batch size {}{} is below micro_batch_size ({}) * data parallel size ({}) = {}: not "
      "every rank would get a microbatch",
      sizes.global, where(), options_.micro_batch_size, options_.data_parallel_size, share);
  return sizes;
}

}  // namespace viaduct::topology
