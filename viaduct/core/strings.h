// Text that people read: sizes, durations, near names.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace viaduct {

/// "2.47 GB" (decimal units, three digits).
std::string human_bytes(uint64_t bytes);
/// "1.3 s", "2 min 05 s".
std::string human_seconds(double seconds);
/// "2026-01-31 18:05:09": now, in the machine's time zone.
std::string local_time();
/// "model.layers.3." with every "*" of `pattern` replaced by the next of `numbers`.
std::string fill_pattern(std::string_view pattern, std::span<const int64_t> numbers);
/// The candidate nearest to `name` by edit distance, when it is near enough to be worth a "did you mean".
std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates);
/// True when `text` is well-formed UTF-8.
bool is_utf8(std::string_view text);
/// The text without spaces at its ends.
std::string_view strip_spaces(std::string_view text);
/// Order of file names as people count: numbers inside compare by value.
bool natural_less(std::string_view a, std::string_view b);

}  // namespace viaduct
