// Jobs: the work of a plan in the order in which it is done, so that no source byte is read twice where memory
// allows.
#pragma once

#include <cstdint>
#include <vector>

#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/move.h"
#include "viaduct/bridge/source_cache.h"

namespace viaduct::bridge {

/// A block of a target chunk, or a part of one where a whole block would need too many source blocks at once.
struct Job {
  uint64_t order = 0;  // where in the source it begins
  uint64_t begin = 0;  // first byte in the chunk
  uint32_t size = 0;
  uint32_t chunk = 0;

  /// The block of the chunk that it lies in.
  uint32_t block() const { return static_cast<uint32_t>(begin / kBlockBytes); }
};

/// Jobs in the order in which they are to be done.
struct JobList {
  std::vector<Job> jobs;
  std::vector<uint32_t> jobs_of_chunk;  // how many jobs make each target chunk
  SourceUses uses;
};

/// Jobs for every block that is not done yet; a chunk without sums is not made. A job needs at most `wide_blocks`
/// source blocks where cutting it to smaller ones helps. One that needs more than `most_blocks` all the same (a
/// large transpose) must be able to take them in turns, which it cannot where a source's elements share bytes or
/// scales.
JobList plan_jobs(const TransferPlan& plan, const std::vector<std::vector<BlockSum>>& sums, size_t wide_blocks,
                  size_t most_blocks);

/// Calls `emit(const Move&)` for all that makes bytes [begin, end) of a target chunk without an encoder (the
/// numbers of one with).
template <class Emit>
void for_each_move(const TransferPlan& plan, const TargetChunk& chunk, uint64_t begin, uint64_t end, Emit&& emit) {
  const Shape strides = row_major_strides(chunk.size);
  for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
    const Transfer& transfer = plan.transfers[chunk.first_transfer + t];
    if (chunk.num_transfers > 1 && !reaches(plan.region_of(transfer), chunk, strides, begin, end)) continue;
    clip(compile(plan, transfer, chunk), static_cast<int64_t>(begin), static_cast<int64_t>(end), emit);
  }
}

/// The source blocks that bytes [begin, end) of a target chunk are made of.
void find_needs(const TransferPlan& plan, const TargetChunk& chunk, uint64_t begin, uint64_t end,
                std::vector<SourceNeed>& needs);

}  // namespace viaduct::bridge
