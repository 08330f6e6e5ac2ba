#include "viaduct/formats/zip_archive.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"

namespace viaduct::formats {

namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr uint64_t kLocalSize = 30;
constexpr uint64_t kCentralSize = 46;
constexpr uint64_t kEndSize = 22;
constexpr uint64_t kEnd64Size = 56;
constexpr uint64_t kLocatorSize = 20;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint64_t kDirectoryLimit = 256u << 20;
constexpr uint32_t k32 = 0xffffffffu;

// Little-endian numbers at a place that the caller has checked.
template <class T>
T number(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
uint16_t u16(const char* at) { return number<uint16_t>(at); }
uint32_t u32(const char* at) { return number<uint32_t>(at); }
uint64_t u64(const char* at) { return number<uint64_t>(at); }

}  // namespace

void ZipArchive::fail(std::string_view what) const { throw UserError(fmt::format("{}: {}", origin_, what)); }

ZipArchive ZipArchive::open(std::span<const std::byte> bytes, std::string_view origin) {
  return open(
      [bytes](uint64_t offset, std::span<std::byte> to) {
        if (!to.empty()) std::memcpy(to.data(), bytes.data() + offset, to.size());
      },
      bytes.size(), origin);
}

ZipArchive ZipArchive::open(ReadAt read, uint64_t size, std::string_view origin) {
  ZipArchive archive;
  archive.read_ = std::move(read);
  archive.size_ = size;
  archive.origin_ = origin;
  if (size < kEndSize) archive.fail(fmt::format("{} bytes are too few for a zip archive", size));

  // The end record is last, before a comment that torch never writes.
  std::vector<char> tail;
  const auto read_tail = [&](uint64_t wanted) {
    tail.resize(std::min(size, wanted));
    archive.read_(size - tail.size(), std::as_writable_bytes(std::span(tail)));
  };
  read_tail(kEndSize + kLocatorSize + kEnd64Size);
  size_t end = tail.size() - kEndSize;
  if (u32(tail.data() + end) != kEnd || u16(tail.data() + end + 20) != 0) {
    read_tail(kEndSize + kMaxComment + kLocatorSize + kEnd64Size);
    bool found = false;
    for (size_t comment = 0; comment <= kMaxComment && comment + kEndSize <= tail.size() && !found; ++comment) {
      end = tail.size() - kEndSize - comment;
      found = u32(tail.data() + end) == kEnd && u16(tail.data() + end + 20) == comment;
    }
    if (!found) archive.fail("no zip end record at the end: not a zip archive, or truncated. Copy it again");
  }
  const uint64_t end_offset = size - tail.size() + end;
  const char* at = tail.data() + end;
  if (u16(at + 4) != 0 || u16(at + 6) != 0 || u16(at + 8) != u16(at + 10))
    archive.fail("an archive in several parts (zip disks) is not supported");
  uint64_t count = u16(at + 10), directory_size = u32(at + 12), directory_offset = u32(at + 16);
  uint64_t directory_end = end_offset;

  if (end_offset >= kLocatorSize) {
    std::array<char, kLocatorSize> locator;
    archive.read_(end_offset - kLocatorSize, std::as_writable_bytes(std::span(locator)));
    if (u32(locator.data()) == kEnd64Locator) {
      const uint64_t record_offset = u64(locator.data() + 8);
      if (record_offset > end_offset - kLocatorSize || end_offset - kLocatorSize - record_offset < kEnd64Size)
        archive.fail(fmt::format("the zip64 end record is said to be at offset {}, outside the archive of {} bytes",
                                 record_offset, size));
      std::array<char, kEnd64Size> record;
      archive.read_(record_offset, std::as_writable_bytes(std::span(record)));
      if (u32(record.data()) != kEnd64)
        archive.fail(fmt::format("no zip64 end record at offset {}", record_offset));
      if (u32(locator.data() + 4) != 0 || u32(record.data() + 16) != 0 || u32(record.data() + 20) != 0)
        archive.fail("an archive in several parts (zip disks) is not supported");
      count = u64(record.data() + 32);
      directory_size = u64(record.data() + 40);
      directory_offset = u64(record.data() + 48);
      directory_end = record_offset;
    }
  }
  if (directory_offset > directory_end || directory_end - directory_offset != directory_size)
    archive.fail(
        fmt::format("the central directory is said to be {} bytes at offset {}, but must end at offset {}: "
                    "there are bytes before the archive, or it is damaged",
                    directory_size, directory_offset, directory_end));
  archive.read_directory(directory_offset, directory_size, count);
  return archive;
}

void ZipArchive::read_directory(uint64_t offset, uint64_t size, uint64_t count) {
  if (size > kDirectoryLimit) fail(fmt::format("a central directory of {} bytes is too large", size));
  if (count > size / kCentralSize)
    fail(fmt::format("{} entries cannot be in a central directory of {} bytes", count, size));
  directory_offset_ = offset;
  directory_.resize(size);
  read_(offset, std::as_writable_bytes(std::span(directory_)));
  entries_.reserve(count);
  size_t place = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const char* at = directory_.data() + place;
    const uint64_t left = size - place;
    if (left < kCentralSize || u32(at) != kCentralHeader)
      fail(fmt::format("no central directory record {} at offset {}", i, offset + place));
    const uint64_t name_size = u16(at + 28), extra_size = u16(at + 30), comment_size = u16(at + 32);
    const uint64_t record_size = kCentralSize + name_size + extra_size + comment_size;
    if (left < record_size)
      fail(fmt::format("central directory record {} at offset {} is cut off", i, offset + place));
    ZipEntry entry{.name = std::string_view(at + kCentralSize, name_size),
                   .header_offset = u32(at + 42),
                   .size = u32(at + 20),
                   .unpacked_size = u32(at + 24),
                   .crc32 = u32(at + 16),
                   .method = u16(at + 10),
                   .flags = u16(at + 8)};
    // The zip64 field holds, in this order, those of the three that read 0xffffffff above.
    std::array<uint64_t*, 3> wide{entry.unpacked_size == k32 ? &entry.unpacked_size : nullptr,
                                  entry.size == k32 ? &entry.size : nullptr,
                                  entry.header_offset == k32 ? &entry.header_offset : nullptr};
    const char* extra = at + kCentralSize + name_size;
    for (uint64_t from = 0; from + 4 <= extra_size;) {
      const uint64_t id = u16(extra + from), length = u16(extra + from + 2);
      if (length > extra_size - from - 4) break;
      if (id == 1) {
        uint64_t used = 0;
        for (uint64_t*& value : wide) {
          if (value == nullptr || used + 8 > length) continue;
          *value = u64(extra + from + 4 + used);
          value = nullptr;
          used += 8;
        }
      }
      from += 4 + length;
    }
    if (entry.header_offset > offset || offset - entry.header_offset < kLocalSize)
      fail(fmt::format("entry '{}' is said to start at offset {}, beyond the entries' end {}", entry.name,
                       entry.header_offset, offset));
    entries_.push_back(entry);
    place += record_size;
  }
  if (place != size) fail(fmt::format("{} bytes follow the last central directory record", size - place));

  // Two entries of one name would let two readers see different data.
  std::vector<std::string_view> names;
  names.reserve(entries_.size());
  for (const ZipEntry& entry : entries_) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) fail(fmt::format("entry '{}' is there twice", *twice));
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  for (const ZipEntry& entry : entries_)
    if (entry.name == name) return &entry;
  return nullptr;
}

std::string_view ZipArchive::root() const {
  if (entries_.empty()) return {};
  const std::string_view name = entries_.front().name;
  const size_t slash = name.find('/');
  return slash == std::string_view::npos ? std::string_view() : name.substr(0, slash);
}

uint64_t ZipArchive::data_offset(const ZipEntry& entry) const {
  if (entry.flags & 1) fail(fmt::format("entry '{}' is encrypted", entry.name));
  if (entry.method != 0 || entry.size != entry.unpacked_size)
    fail(fmt::format(
        "entry '{}' is compressed (zip method {}); torch stores entries as they are. Unpack the archive "
        "and pack it with 'zip -0', or save it again with torch.save",
        entry.name, entry.method));
  const uint64_t wanted =
      std::min<uint64_t>(kLocalSize + entry.name.size(), directory_offset_ - entry.header_offset);
  std::array<char, 512> small;
  std::vector<char> large;
  std::span<char> header(small);
  if (wanted > small.size()) {
    large.resize(wanted);
    header = large;
  }
  header = header.first(wanted);
  read_(entry.header_offset, std::as_writable_bytes(header));
  if (u32(header.data()) != kLocalHeader)
    fail(fmt::format("entry '{}': no local header at offset {}", entry.name, entry.header_offset));
  const uint64_t name_size = u16(header.data() + 26), extra_size = u16(header.data() + 28);
  if (name_size != entry.name.size() || wanted < kLocalSize + name_size ||
      std::memcmp(header.data() + kLocalSize, entry.name.data(), name_size) != 0)
    fail(
        fmt::format("entry '{}': the local header at offset {} has another name", entry.name, entry.header_offset));
  const uint64_t data = entry.header_offset + kLocalSize + name_size + extra_size;
  if (data > directory_offset_ || entry.size > directory_offset_ - data)
    fail(fmt::format("entry '{}': {} bytes at offset {} reach beyond the entries' end {}", entry.name, entry.size,
                     data, directory_offset_));
  return data;
}

std::string ZipArchive::read(const ZipEntry& entry, uint64_t limit) const {
  const uint64_t data = data_offset(entry);
  if (entry.size > limit)
    fail(fmt::format("entry '{}' has {} bytes, more than the {} that such an entry may have", entry.name,
                     entry.size, limit));
  std::string bytes(entry.size, '\0');
  read_(data, std::as_writable_bytes(std::span(bytes)));
  const uint32_t crc = viaduct::crc32(std::as_bytes(std::span(bytes)));
  if (crc != entry.crc32)
    fail(fmt::format("entry '{}' is damaged: CRC-32 {:08x}, expected {:08x}. Copy the file again", entry.name, crc,
                     entry.crc32));
  return bytes;
}

}  // namespace viaduct::formats
