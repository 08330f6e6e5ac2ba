#include "viaduct/bridge/journal.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"

namespace viaduct::bridge {

namespace {

// One finished block. Written whole, in one append; a torn record at the end does not match its check.
struct Record {
  uint32_t chunk = 0;
  uint32_t block = 0;
  uint64_t xxh3 = 0;
  uint32_t crc32 = 0;
  uint32_t check = 0;

  uint32_t expected_check() const {
    return static_cast<uint32_t>(xxh3_64(std::as_bytes(std::span(this, 1)).first(offsetof(Record, check))));
  }
};

class FileJournal : public BlockJournal {
 public:
  FileJournal(const Path& staging, Path data, const TransferPlan& plan)
      : plan_(plan), data_(std::move(data)), file_(File::open(staging / kJournalName, File::Mode::kWrite)) {
    const uint64_t count = file_.size() / sizeof(Record);
    std::vector<Record> records(count);
    file_.read(0, std::as_writable_bytes(std::span(records)));
    for (const Record& record : records) {
      if (record.check != record.expected_check()) break;
      listed_[key(record.chunk, record.block)] = record;
      end_ += sizeof(Record);
    }
    file_.resize(end_);
  }

  std::optional<BlockSum> find(uint32_t chunk, uint32_t block) override {
    const auto it = listed_.find(key(chunk, block));
    if (it == listed_.end() || !is_there(it->second)) return std::nullopt;
    return BlockSum{it->second.xxh3, it->second.crc32, true};
  }

  void record(uint32_t chunk, uint32_t block, const BlockSum& sum) override {
    Record record{chunk, block, sum.xxh3, sum.crc32, 0};
    record.check = record.expected_check();
    const std::lock_guard lock(mutex_);
    file_.write(end_, std::as_bytes(std::span(&record, 1)));
    end_ += sizeof(Record);
  }

 private:
  static uint64_t key(uint32_t chunk, uint32_t block) { return uint64_t{chunk} << 32 | block; }

  bool is_there(const Record& record) {
    if (record.chunk >= plan_.targets.size()) return false;
    const TargetChunk& chunk = plan_.targets[record.chunk];
    const uint64_t begin = record.block * kBlockBytes, size = chunk.num_bytes();
    if (begin >= size) return false;
    const std::string& name = plan_.target.files[chunk.file].name;
    if (name != open_name_) {
      if (!std::filesystem::exists(data_ / name)) return false;
      open_ = File::open(data_ / name, File::Mode::kRead);
      open_name_ = name;
    }
    buffer_.resize(std::min(kBlockBytes, size - begin));
    if (open_.read_some(chunk.byte_offset + begin, buffer_) != buffer_.size()) return false;
    return xxh3_64(buffer_) == record.xxh3;
  }

  const TransferPlan& plan_;
  Path data_;
  File file_;
  uint64_t end_ = 0;
  std::mutex mutex_;
  std::unordered_map<uint64_t, Record> listed_;
  File open_;                 // the target file that was looked at last
  std::string open_name_;
  std::vector<std::byte> buffer_;
};

}  // namespace

std::unique_ptr<BlockJournal> open_journal(const Path& staging, const Path& data, const TransferPlan& plan) {
  return std::make_unique<FileJournal>(staging, data, plan);
}

}  // namespace viaduct::bridge
