// StopStrings: ends a text where one of some strings begins, while it arrives in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace viaduct::infer {

/// Of the pieces that it gets it gives back what is certain to come before any of the strings.
class StopStrings {
 public:
  /// UserError for an empty string.
  explicit StopStrings(std::vector<std::string> strings);
  /// What of the text so far may be shown now that `piece` follows. Nothing more comes once stopped().
  std::string push(std::string_view piece);
  /// What was held back because a string might have begun there.
  std::string finish();
  /// Has one of the strings come?
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace viaduct::infer
