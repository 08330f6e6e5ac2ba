#include "viaduct/bridge/budget.h"

#include <algorithm>
#include <thread>

#include "viaduct/bridge/copy_move.h"
#include "viaduct/bridge/source_cache.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kWorkerBytes = kBlockBytes + kPage + 3 * CopyScratch::kBytes;
constexpr uint64_t kConnectionBytes = 1u << 20;  // of readers beyond the two of a disk

}  // namespace

Budget::Budget(const ExecuteOptions& options, const ReadPace& pace) {
  VIADUCT_USER_CHECK(options.max_memory >= 24u << 20,
                     "{} bytes of memory are too little; at least 24 MiB are needed", options.max_memory);
  const int processors = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 8);
  // A worker that writes waits for the disk: one more than processors keeps both busy.
  workers = options.threads > 0 ? options.threads : processors + 1;
  workers = std::clamp<int>(workers, 1, static_cast<int>(options.max_memory / 2 / kWorkerBytes));
  const uint64_t left = options.max_memory - static_cast<uint64_t>(workers) * kWorkerBytes;
  readers = std::clamp<int>(pace.readers, 1, std::max(2, static_cast<int>(left / 8 / kConnectionBytes)));
  slots = (left - static_cast<uint64_t>(std::max(readers - 2, 0)) * kConnectionBytes) / kSourceBlockBytes - 2;
  together = std::max<size_t>(pace.blocks, 1);
  wide = std::min<size_t>(24, slots / 2);
  // What is far away is asked for long before it is needed.
  const size_t wanted = static_cast<size_t>(readers) * together;
  ahead = std::min<size_t>(slots / 2, std::max(wanted, 16 + 4 * static_cast<size_t>(workers)));
}

}  // namespace viaduct::bridge
