#include "viaduct/bridge/journal.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <tuple>

#include "viaduct/bridge/open_files.h"
#include "viaduct/core/buffer.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"

namespace viaduct::bridge {

namespace {

constexpr uint64_t kMagic = 0x316c6e6a74636476;  // "vdctjnl1"
constexpr uint64_t kPage = 4096;

struct Header {
  uint64_t magic = kMagic;
  uint64_t plan = 0;
  uint64_t source = 0;  // sizes and times of the source files
  friend bool operator==(const Header&, const Header&) = default;
};

// One finished block. Written whole, in one append; a torn record does not match its check.
struct Record {
  uint32_t chunk = 0;
  uint32_t block = 0;
  uint64_t xxh3 = 0;
  uint32_t crc32 = 0;
  uint32_t check = 0;

  uint32_t expected_check() const {
    return static_cast<uint32_t>(xxh3_64(std::as_bytes(std::span(this, 1)).first(offsetof(Record, check))));
  }
  std::pair<uint32_t, uint32_t> key() const { return {chunk, block}; }
};

uint64_t source_identity(const std::vector<Path>& source_files) {
  std::vector<int64_t> facts;
  for (const Path& file : source_files) {
    struct stat status {};
    if (::stat(file.c_str(), &status) != 0) throw_system(fmt::format("cannot read the size of {}", file.string()));
    facts.insert(facts.end(), {status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec});
  }
  return xxh3_64(std::as_bytes(std::span(facts)));
}

std::vector<Path> target_paths(const TransferPlan& plan, const Path& data) {
  std::vector<Path> paths;
  for (const formats::TargetFile& file : plan.target.files) paths.push_back(data / file.name);
  return paths;
}

class FileJournal : public BlockJournal {
 public:
  FileJournal(const Path& journal, const Path& data, const TransferPlan& plan,
              const std::vector<Path>& source_files)
      : plan_(plan),
        targets_(target_paths(plan, data), File::Mode::kReadDirect),
        file_(File::open(journal, File::Mode::kWrite)) {
    Header header;
    header.plan = plan.hash();
    header.source = source_identity(source_files);
    read_records(header);
    if (end_ == 0) {
      file_.resize(0);
      file_.write(0, std::as_bytes(std::span(&header, 1)));
      end_ = sizeof(Header);
    }
    file_.resize(end_);
  }

  std::optional<BlockSum> find(uint32_t chunk, uint32_t block) override {
    const auto wanted = std::pair(chunk, block);
    const auto it = std::lower_bound(listed_.begin(), listed_.end(), wanted,
                                     [](const Record& record, const auto& key) { return record.key() < key; });
    if (it == listed_.end() || it->key() != wanted || !is_there(*it)) return std::nullopt;
    return BlockSum{it->xxh3, it->crc32, true};
  }

  void record(uint32_t chunk, uint32_t block, const BlockSum& sum) override {
    Record record{chunk, block, sum.xxh3, sum.crc32, 0};
    record.check = record.expected_check();
    const std::lock_guard lock(mutex_);
    file_.write(end_, std::as_bytes(std::span(&record, 1)));
    end_ += sizeof(Record);
    // Only a power failure needs this, and what is lost then is only time.
    if (++unsynced_ == kSyncEvery) {
      ::fdatasync(file_.fd());
      unsynced_ = 0;
    }
  }

 private:
  static constexpr int kSyncEvery = 1024;  // 4 GiB

  // Leaves end_ at 0 when the file is no journal of this plan and source.
  void read_records(const Header& wanted) {
    uint64_t blocks = 0;
    for (const TargetChunk& chunk : plan_.targets) blocks += chunk.num_blocks();
    const uint64_t size = file_.size();
    // A block is listed once for each time that it was made; a resumed run makes only what is not there.
    if (size < sizeof(Header) || size > sizeof(Header) + (2 * blocks + 64) * sizeof(Record)) return;
    Header header;
    file_.read(0, std::as_writable_bytes(std::span(&header, 1)));
    if (header != wanted) return;
    end_ = sizeof(Header);
    listed_.resize((size - sizeof(Header)) / sizeof(Record));
    file_.read(end_, std::as_writable_bytes(std::span(listed_)));
    size_t good = 0;
    while (good < listed_.size() && listed_[good].check == listed_[good].expected_check()) ++good;
    listed_.resize(good);
    end_ += good * sizeof(Record);
    // Of two records of a block the later one counts.
    std::stable_sort(listed_.begin(), listed_.end(),
                     [](const Record& a, const Record& b) { return a.key() < b.key(); });
    const auto last = std::unique(listed_.rbegin(), listed_.rend(),
                                  [](const Record& a, const Record& b) { return a.key() == b.key(); });
    listed_.erase(listed_.begin(), last.base());
    if (listed_.size() == good) return;
    // Else it would grow with each run that is stopped, beyond what is believed. What a stop leaves of this is
    // still a journal: an older record of a block is one that its bytes may not match.
    file_.write(sizeof(Header), std::as_bytes(std::span(listed_)));
    end_ = sizeof(Header) + listed_.size() * sizeof(Record);
  }

  bool is_there(const Record& record) {
    if (record.chunk >= plan_.targets.size()) return false;
    const TargetChunk& chunk = plan_.targets[record.chunk];
    uint64_t at = chunk.byte_offset + record.block * kBlockBytes;
    const uint64_t end = std::min(at + kBlockBytes, chunk.byte_offset + chunk.num_bytes());
    if (at >= end || !std::filesystem::exists(targets_.path(chunk.file))) return false;
    const auto file = targets_.get(chunk.file);
    constexpr uint64_t kPiece = 512u << 10;
    const Buffer buffer(kPiece);
    Xxh3Stream hash;
    while (at < end) {
      const uint64_t page = at / kPage * kPage, stop = std::min(end, page + kPiece);
      const size_t count = file->read_some(page, {buffer.data(), kPiece});
      if (page + count < stop) return false;
      hash.add({buffer.data() + (at - page), static_cast<size_t>(stop - at)});
      at = stop;
    }
    return hash.value() == record.xxh3;
  }

  const TransferPlan& plan_;
  OpenFiles targets_;
  std::vector<Record> listed_;  // by (chunk, block)
  std::mutex mutex_;            // guards what follows
  File file_;
  uint64_t end_ = 0;
  int unsynced_ = 0;
};

}  // namespace

std::unique_ptr<BlockJournal> open_journal(const Path& staging, const Path& data, const TransferPlan& plan,
                                           const std::vector<Path>& source_files, const std::string& name) {
  return std::make_unique<FileJournal>(staging / name, data, plan, source_files);
}

}  // namespace viaduct::bridge
