#include "viaduct/bridge/source_cache.h"

#include <sys/mman.h>

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace {
constexpr uint64_t kPage = 4096;
}

void add_range(std::vector<SourceNeed>& needs, uint32_t file, uint64_t begin, uint64_t end) {
  while (begin < end) {
    const uint64_t block = begin / kSourceBlockBytes, base = block * kSourceBlockBytes;
    const SourceNeed need{source_key(file, block), static_cast<uint32_t>(begin - base),
                          static_cast<uint32_t>(std::min(end - base, kSourceBlockBytes))};
    if (!needs.empty() && needs.back().key == need.key) {
      needs.back().begin = std::min(needs.back().begin, need.begin);
      needs.back().end = std::max(needs.back().end, need.end);
    } else {
      needs.push_back(need);
    }
    begin = base + kSourceBlockBytes;
  }
}

void merge_needs(std::vector<SourceNeed>& needs) {
  std::sort(needs.begin(), needs.end(), [](const SourceNeed& a, const SourceNeed& b) { return a.key < b.key; });
  size_t kept = 0;
  for (const SourceNeed& need : needs) {
    if (kept > 0 && needs[kept - 1].key == need.key) {
      needs[kept - 1].begin = std::min(needs[kept - 1].begin, need.begin);
      needs[kept - 1].end = std::max(needs[kept - 1].end, need.end);
    } else {
      needs[kept++] = need;
    }
  }
  needs.resize(kept);
}

void SourceUses::count(const std::vector<SourceNeed>& needs) {
  for (const SourceNeed& need : needs) {
    Use& use = at(need.key);
    ++use.jobs;
    use.first_page = std::min(use.first_page, static_cast<uint16_t>(need.begin / kPage));
    use.end_page = std::max(use.end_page, static_cast<uint16_t>((need.end + kPage - 1) / kPage));
  }
}

SourceCache::SourceCache(SourceUses uses, size_t max_slots) : uses_(std::move(uses)), max_slots_(max_slots) {
  void* memory = ::mmap(nullptr, max_slots * kSourceBlockBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw_system(fmt::format("cannot get {} MiB of memory", max_slots));
  slab_ = static_cast<std::byte*>(memory);
}

SourceCache::~SourceCache() { ::munmap(slab_, max_slots_ * kSourceBlockBytes); }

size_t SourceCache::num_unpinned(const std::vector<SourceNeed>& needs) const {
  size_t count = 0;
  for (const SourceNeed& need : needs) {
    const auto it = entries_.find(need.key);
    count += it == entries_.end() || it->second->pins == 0;
  }
  return count;
}

std::byte* SourceCache::take_slot() {
  if (!free_.empty()) {
    std::byte* slot = free_.back();  // the one that was used last: its memory is warm
    free_.pop_back();
    return slot;
  }
  if (touched_ < max_slots_) return slab_ + kSourceBlockBytes * touched_++;
  Entry* oldest = nullptr;
  for (const auto& [key, entry] : entries_)
    if (entry->pins == 0 && entry->ready && (!oldest || entry->last_use < oldest->last_use)) oldest = entry.get();
  if (!oldest) return nullptr;
  drop(oldest);
  return take_slot();
}

void SourceCache::drop(Entry* entry) {
  free_.push_back(entry->data);
  entries_.erase(entry->key);
}

SourceCache::Entry* SourceCache::pin(uint64_t key, bool& fresh) {
  fresh = false;
  const auto it = entries_.find(key);
  if (it != entries_.end()) {
    if (it->second->pins++ == 0) ++num_pinned_;
    return it->second.get();
  }
  std::byte* slot = take_slot();
  if (!slot) return nullptr;
  auto entry = std::make_unique<Entry>();
  entry->key = key;
  entry->data = slot;
  const SourceUses::Use& use = uses_.at(key);
  entry->begin = static_cast<uint32_t>(use.first_page * kPage);
  entry->end = static_cast<uint32_t>(use.end_page * kPage);
  entry->pins = 1;
  ++num_pinned_;
  fresh = true;
  return entries_.emplace(key, std::move(entry)).first->second.get();
}

void SourceCache::unpin(Entry* entry, bool used) {
  SourceUses::Use& use = uses_.at(entry->key);
  if (used && use.jobs > 0) --use.jobs;
  entry->last_use = ++clock_;
  if (--entry->pins > 0) return;
  --num_pinned_;
  if (use.jobs == 0) drop(entry);
}

}  // namespace viaduct::bridge
