#include "viaduct/bridge/part.h"

#include <algorithm>
#include <numeric>
#include <unordered_set>

namespace viaduct::bridge {

std::string Part::text() const { return fmt::format("part {} of {}", number, of); }

std::vector<int> share_files(const TransferPlan& plan, int parts) {
  const std::vector<formats::TargetFile>& files = plan.target.files;
  std::vector<uint32_t> order(files.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return files[a].size > files[b].size; });
  std::vector<uint64_t> bytes(static_cast<size_t>(parts));
  std::vector<int> part_of(files.size());
  for (const uint32_t file : order) {
    const auto least = std::min_element(bytes.begin(), bytes.end());
    *least += files[file].size;
    part_of[file] = static_cast<int>(least - bytes.begin()) + 1;
  }
  return part_of;
}

std::vector<bool> files_of(const TransferPlan& plan, const Part& part) {
  std::vector<bool> files;
  for (const int number : share_files(plan, part.of)) files.push_back(number == part.number);
  return files;
}

std::vector<ScaledTarget> scaled_in(const TransferPlan& plan, const std::vector<ScaledTarget>& scaled,
                                    const std::vector<bool>& files) {
  std::unordered_set<uint64_t> wanted;  // where in the measured file
  for (const TargetChunk& chunk : plan.targets) {
    if (!files.at(chunk.file)) continue;
    if (chunk.encoder != kNoEncoder && plan.encoders[chunk.encoder].scales != kNoScales)
      wanted.insert(plan.scales[plan.encoders[chunk.encoder].scales].byte_offset);
    for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
      const int32_t source = plan.transfers[chunk.first_transfer + t].source;
      if (source == layout::kNoTensor) continue;
      const SourceChunk& from = plan.sources[static_cast<size_t>(source)];
      if (plan.measured_file == from.file) wanted.insert(from.byte_offset);
    }
  }
  std::vector<ScaledTarget> result;
  std::copy_if(scaled.begin(), scaled.end(), std::back_inserter(result),
               [&](const ScaledTarget& each) { return wanted.contains(each.offset); });
  return result;
}

}  // namespace viaduct::bridge
