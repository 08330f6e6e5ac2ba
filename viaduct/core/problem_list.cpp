#include "viaduct/core/problem_list.h"

#include <fmt/ranges.h>

namespace viaduct {

void ProblemList::add(std::string problem) {
  ++count_;
  if (shown_.size() < kShown) shown_.push_back(std::move(problem));
}

std::string ProblemList::text() const {
  return fmt::format("{} problem{}:\n  {}{}", count_, count_ == 1 ? "" : "s", fmt::join(shown_, "\n  "),
                     count_ > shown_.size() ? "\n  ..." : "");
}

}  // namespace viaduct
