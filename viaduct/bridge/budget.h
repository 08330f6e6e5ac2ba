// How an execution shares out its memory.
#pragma once

#include <cstddef>

#include "viaduct/bridge/executor.h"

namespace viaduct::bridge {

/// How an execution shares out its memory and threads.
struct Budget {
  /// UserError when options.max_memory is too little.
  Budget(const ExecuteOptions& options, const ReadPace& pace);

  int workers = 1;
  int readers = 2;
  size_t slots = 0;                          // source blocks in memory
  size_t together = 1;                       // source blocks that one read brings at most
  size_t wide = 0;                           // source blocks that one job should need at most
  size_t ahead = 0;                          // source blocks that are read before a worker asks for them
  size_t most() const { return slots - 1; }  // source blocks that one job can have at once
};

}  // namespace viaduct::bridge
