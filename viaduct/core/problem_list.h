// Everything that is wrong with an input, so that one error tells all of it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace viaduct {

class ProblemList {
 public:
  void add(std::string problem);
  bool empty() const { return count_ == 0; }
  /// "3 problems:", then a line for each; of many the first 20 and "...".
  std::string text() const;

 private:
  static constexpr size_t kShown = 20;
  size_t count_ = 0;
  std::vector<std::string> shown_;
};

}  // namespace viaduct
