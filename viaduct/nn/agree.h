// Agreement between ranks: work that each does by itself has failed for all when it has failed for one.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/parallel/group.h"

namespace viaduct::nn {

/// Another rank failed: its error, after "rank 3: ". That rank tells of it; the others need not.
class RankFailed : public UserError {
 public:
  using UserError::UserError;
};

/// Runs `work` on this rank and waits until every rank of `group` has done so; all of them call it. Where it threw
/// on one, every rank throws: that one its own error, the others RankFailed with the error of the lowest rank that
/// failed; of several ranks with the same error only the lowest throws it. What is told goes through tensors on
/// `device`, where the group's communicator works.
void agree(const parallel::Group& group, c10::Device device, const std::function<void()>& work);

/// The bytes of the group's first rank, on all of them; what the others had in `bytes` goes. Collective, through
/// tensors on `device` of at most 64 MiB.
void share(const parallel::Group& group, c10::Device device, std::string& bytes);

}  // namespace viaduct::nn
