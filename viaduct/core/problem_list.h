// Everything that is wrong with an input, so that one error tells all of it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace viaduct {

/// Problems in the order in which they were found.
class ProblemList {
 public:
  /// All are counted, the first 20 are kept.
  void add(std::string problem);
  /// True when nothing was added.
  bool empty() const { return count_ == 0; }
  /// "3 problems:", then a line for each; of many the first 20 and "...".
  std::string text() const;

 private:
  static constexpr size_t kShown = 20;
  size_t count_ = 0;
  std::vector<std::string> shown_;
};

}  // namespace viaduct
