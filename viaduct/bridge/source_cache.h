// The source blocks in memory: one slab of aligned slots, each block kept until the last job that needs it is done.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

namespace viaduct::bridge {

/// Blocks of a source file begin at multiples of this.
inline constexpr uint64_t kSourceBlockBytes = 1u << 20;

/// The part of one block of a source file that is needed: [begin, end), counted from the block's start.
struct SourceNeed {
  uint64_t key = 0;  // see source_key
  uint32_t begin = 0;
  uint32_t end = 0;
};

/// The key of a block, counted from the file's start, and what a key says: file and offset in bytes.
inline uint64_t source_key(uint32_t file, uint64_t block) { return uint64_t{file} << 40 | block; }
inline uint32_t file_of_key(uint64_t key) { return static_cast<uint32_t>(key >> 40); }
inline uint64_t offset_of_key(uint64_t key) { return (key & ((uint64_t{1} << 40) - 1)) * kSourceBlockBytes; }

/// Adds bytes [begin, end) of a file to `needs`.
void add_range(std::vector<SourceNeed>& needs, uint32_t file, uint64_t begin, uint64_t end);
/// Sorts, and makes each block appear once.
void merge_needs(std::vector<SourceNeed>& needs);

/// For each source block of a plan how many jobs need it, and which of its pages any of them does.
class SourceUses {
 public:
  /// One job more that has these needs.
  void count(const std::vector<SourceNeed>& needs);
  /// Uses of one block; no page is used when end_page is 0.
  struct Use {
    uint32_t jobs = 0;
    uint16_t first_page = 0xFFFF;
    uint16_t end_page = 0;
  };
  /// The uses of a block; of none when it was never counted.
  Use& at(uint64_t key) { return regions_[key / kRegion][key % kRegion]; }

 private:
  static constexpr uint64_t kRegion = 64;
  std::unordered_map<uint64_t, std::array<Use, kRegion>> regions_;
};

/// The blocks that are loaded or being loaded. Not thread-safe: the executor's lock guards it.
class SourceCache {
 public:
  /// A block in memory.
  struct Entry {
    uint64_t key = 0;
    std::byte* data = nullptr;
    uint32_t begin = 0, end = 0;  // loaded part of the block; whole pages but for the file's end
    bool ready = false;
    int pins = 0;  // jobs that are planned or at work on it
    uint64_t last_use = 0;
  };

  /// Memory is touched only as far as it is used.
  SourceCache(SourceUses uses, size_t max_slots);
  ~SourceCache();
  SourceCache(const SourceCache&) = delete;

  /// Blocks that there is room for.
  size_t max_slots() const { return max_slots_; }
  /// Blocks that jobs hold.
  size_t num_pinned() const { return num_pinned_; }
  /// How many of the blocks are not pinned yet.
  size_t num_unpinned(const std::vector<SourceNeed>& needs) const;
  /// The block, pinned; nullptr when there is no slot free for it. `fresh` says that it must be loaded.
  Entry* pin(uint64_t key, bool& fresh);
  /// The job that pinned the block is done with it; `used`: it will not ask for it again.
  void unpin(Entry* entry, bool used = true);

 private:
  std::byte* take_slot();
  void drop(Entry* entry);

  SourceUses uses_;
  size_t max_slots_;
  std::byte* slab_;
  size_t touched_ = 0;  // slots of the slab that were ever used
  std::vector<std::byte*> free_;
  std::unordered_map<uint64_t, std::unique_ptr<Entry>> entries_;
  size_t num_pinned_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace viaduct::bridge
