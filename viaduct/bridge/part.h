// Parts: several runs that make one conversion together, each of them some of its data files.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/measure_scales.h"
#include "viaduct/bridge/transfer.h"

namespace viaduct::bridge {

/// Which of how many.
struct Part {
  int number = 1;  // from 1
  int of = 1;

  /// "part 2 of 4"
  std::string text() const;
};

/// The most parts that a conversion may have.
inline constexpr int kMostParts = 1000;

/// [target file]: the number of the part that makes it. The largest file goes first, each to the part that has the
/// fewest bytes yet: the same for everyone who has the plan. A part may get none.
std::vector<int> share_files(const TransferPlan& plan, int parts);
/// [target file]: is it this part's?
std::vector<bool> files_of(const TransferPlan& plan, const Part& part);

/// Of the weights to be measured those whose codes or scales lie in these files of the plan.
std::vector<ScaledTarget> scaled_in(const TransferPlan& plan, const std::vector<ScaledTarget>& scaled,
                                    const std::vector<bool>& files);

}  // namespace viaduct::bridge
