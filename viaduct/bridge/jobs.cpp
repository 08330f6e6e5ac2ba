#include "viaduct/bridge/jobs.h"

#include <algorithm>
#include <tuple>

#include "viaduct/bridge/encode.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

void find_needs(const TransferPlan& plan, const TargetChunk& chunk, uint64_t begin, uint64_t end,
                std::vector<SourceNeed>& needs) {
  needs.clear();
  if (chunk.encoder != kNoEncoder) {
    const auto [first, last] = elements_of(chunk, begin, end);
    const EncoderRange beside = encoder_range(plan, chunk, first, last);
    add_range(needs, beside.file, beside.begin, beside.end);
  }
  const auto [from_byte, to_byte] = number_bytes(plan, chunk, begin, end);
  for_each_move(plan, plan.numbers_of(chunk), from_byte, to_byte, [&](const Move& move) {
    source_ranges(move, [&](uint32_t file, uint64_t from, uint64_t to) { add_range(needs, file, from, to); });
  });
  merge_needs(needs);
}

namespace {

class Planner {
 public:
  Planner(const TransferPlan& plan, size_t wide, size_t most) : plan_(plan), wide_(wide), most_(most) {
    list_.jobs_of_chunk.resize(plan.targets.size());
  }

  void add_chunk(uint32_t id, const std::vector<BlockSum>& sums) {
    const uint64_t size = plan_.targets[id].num_bytes();
    for (uint64_t begin = 0; begin < size; begin += kBlockBytes) {
      if (sums[begin / kBlockBytes].done) continue;
      order_ = 0;
      find_needs(plan_, plan_.targets[id], begin, std::min(begin + kBlockBytes, size), needs_);
      add(id, begin, std::min(begin + kBlockBytes, size));
    }
  }

  JobList finish() {
    std::sort(list_.jobs.begin(), list_.jobs.end(), [](const Job& a, const Job& b) {
      return std::tie(a.order, a.chunk, a.begin) < std::tie(b.order, b.chunk, b.begin);
    });
    return std::move(list_);
  }

 private:
  // Adds bytes [begin, end) of a chunk, whose needs are in needs_, as one job or several.
  void add(uint32_t id, uint64_t begin, uint64_t end) {
    constexpr uint64_t kSmallest = 64u << 10;  // below this the writes become too small to be quick
    const size_t blocks = needs_.size();
    const bool must_cut = blocks > most_ && by_element(plan_.targets[id]);
    if (blocks > wide_ && (end - begin > kSmallest || must_cut)) {
      const uint64_t element = static_cast<uint64_t>(info(plan_.targets[id].dtype).block_bytes);
      const uint64_t step = end - begin > 8192 ? 4096 : end - begin > 64 ? 16 : element;
      const uint64_t middle = begin + ((end - begin) / 2 + step - 1) / step * step;
      VIADUCT_CHECK(middle < end, "{} bytes of a tensor need {} source blocks", end - begin, blocks);
      find_needs(plan_, plan_.targets[id], begin, middle, needs_);
      // A cut that hardly needs less (a transpose) only makes more work.
      if (needs_.size() <= blocks / 4 * 3 || must_cut) {
        add(id, begin, middle);
        find_needs(plan_, plan_.targets[id], middle, end, needs_);
        add(id, middle, end);
        return;
      }
      find_needs(plan_, plan_.targets[id], begin, end, needs_);
    }
    // The parts of one block are hashed one after the other, so their order never turns back.
    uint64_t first = needs_.empty() ? order_ : ~uint64_t{0};
    for (const SourceNeed& need : needs_)
      first = std::min(first, uint64_t{file_of_key(need.key)} << 44 | (offset_of_key(need.key) + need.begin));
    order_ = std::max(order_, first);
    list_.jobs.push_back({order_, begin, static_cast<uint32_t>(end - begin), id});
    ++list_.jobs_of_chunk[id];
    list_.uses.count(needs_);
  }

  bool by_element(const TargetChunk& chunk) const {
    if (chunk.encoder != kNoEncoder) return true;
    for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
      const int32_t source = plan_.transfers[chunk.first_transfer + t].source;
      if (source == layout::kNoTensor) continue;
      const SourceChunk& from = plan_.sources[static_cast<size_t>(source)];
      if (from.is_scaled() || (from.dtype != chunk.dtype && !is_byte_sized(from.dtype))) return true;
    }
    return false;
  }

  const TransferPlan& plan_;
  size_t wide_, most_;
  uint64_t order_ = 0;
  std::vector<SourceNeed> needs_;
  JobList list_;
};

}  // namespace

JobList plan_jobs(const TransferPlan& plan, const std::vector<std::vector<BlockSum>>& sums, size_t wide_blocks,
                  size_t most_blocks) {
  Planner planner(plan, wide_blocks, most_blocks);
  for (uint32_t id = 0; id < plan.targets.size(); ++id)
    if (!sums[id].empty()) planner.add_chunk(id, sums[id]);
  return planner.finish();
}

}  // namespace viaduct::bridge
