#include "viaduct/infer/stop_strings.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::infer {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& string : strings_) VIADUCT_USER_CHECK(!string.empty(), "a stop string is empty");
}

std::string StopStrings::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  size_t end = std::string::npos;
  for (const std::string& string : strings_) end = std::min(end, held_.find(string));
  if (end != std::string::npos) {
    stopped_ = true;
    std::string shown = held_.substr(0, end);
    held_.clear();
    return shown;
  }
  // The longest end of the text that could be the beginning of a string waits.
  size_t waits = 0;
  for (const std::string& string : strings_)
    for (size_t length = std::min(string.size() - 1, held_.size()); length > waits; --length)
      if (held_.ends_with(std::string_view(string).substr(0, length))) waits = length;
  std::string shown = held_.substr(0, held_.size() - waits);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

}  // namespace viaduct::infer
