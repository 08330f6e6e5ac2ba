// Zip archives as torch writes them: stored entries, zip64, driven by the central directory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace viaduct::formats {

/// One entry, as the central directory lists it.
struct ZipEntry {
  std::string_view name;       // valid as long as its archive
  uint64_t header_offset = 0;  // of the local header, from the start of the archive
  uint64_t size = 0;           // stored bytes
  uint64_t unpacked_size = 0;
  uint32_t crc32 = 0;   // of the unpacked bytes
  uint16_t method = 0;  // 0: stored, 8: deflated
  uint16_t flags = 0;   // bit 0: encrypted
};

/// The index of one archive that lies in a file, a part of a file, or memory. Memory use is a small multiple of the
/// central directory; no entry is unpacked. Movable.
class ZipArchive {
 public:
  /// Reads exactly `to.size()` bytes at `offset` from the archive's start. Never asked for bytes past the size.
  using ReadAt = std::function<void(uint64_t offset, std::span<std::byte> to)>;

  /// UserError "<origin>: ..." with the offset for anything that is not a whole zip archive of exactly `size`
  /// bytes.
  static ZipArchive open(ReadAt read, uint64_t size, std::string_view origin);
  /// An archive in memory; `bytes` outlives it.
  static ZipArchive open(std::span<const std::byte> bytes, std::string_view origin);

  /// In the order of the central directory.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// nullptr when there is none of that name.
  const ZipEntry* find(std::string_view name) const;
  /// The folder of the first entry, which torch calls the archive's root ("archive", "common"); empty for none.
  std::string_view root() const;

  /// Offset of the entry's bytes from the start of the archive, from its local header. UserError when the entry is
  /// compressed or encrypted, its two headers disagree, or its bytes reach beyond the entries' part of the archive.
  uint64_t data_offset(const ZipEntry& entry) const;
  /// The entry's bytes. UserError when they are more than `limit` or their CRC-32 is wrong.
  std::string read(const ZipEntry& entry, uint64_t limit) const;
  /// Bytes of the whole archive.
  uint64_t size() const { return size_; }

 private:
  void read_directory(uint64_t offset, uint64_t size, uint64_t count);
  [[noreturn]] void fail(std::string_view what) const;

  ReadAt read_;
  uint64_t size_ = 0;
  uint64_t directory_offset_ = 0;
  std::string origin_;
  std::vector<char> directory_;  // the bytes of the central directory; entry names point into it
  std::vector<ZipEntry> entries_;
};

/// How a written archive looks.
enum class ZipStyle {
  kTorch,    // as torch.save does it: every entry at a multiple of 64, data descriptors, zip64 end records always
  kCompact,  // sizes in the local headers, only the hole is aligned, zip64 records only where they are needed
};

/// The bytes of an archive in which the data of at most one entry (the hole) is filled in later.
struct ZipImage {
  std::string head;  // up to the hole; the whole archive when there is none
  uint64_t hole_size = 0;
  std::string tail;                   // after the hole
  std::vector<uint64_t> crc_offsets;  // from the archive's start: where the CRC-32 of the hole's data belongs
  /// Bytes of the whole archive.
  uint64_t size() const { return head.size() + hole_size + tail.size(); }
};

/// Puts an archive together. Entry names are full ("archive/data.pkl"). The same calls give the same bytes.
class ZipWriter {
 public:
  /// An archive without entries, in one of two styles.
  explicit ZipWriter(ZipStyle style) : style_(style) {}

  /// An entry with these bytes, stored without compression.
  void add(std::string_view name, std::string_view bytes);
  /// An entry of `size` bytes that come later, at a multiple of 64 from the archive's start. At most one.
  void add_hole(std::string_view name, uint64_t size);
  /// The archive, with its central directory. Called once.
  ZipImage finish();

 private:
  struct Record {
    std::string name;
    uint64_t header_offset;
    uint64_t size;
    uint32_t crc32;
    uint16_t flags;
    bool hole;
  };
  uint64_t position() const;
  std::string& out() { return has_hole_ ? image_.tail : image_.head; }
  void add_header(std::string_view name, uint64_t size, uint32_t crc, bool hole);
  void add_descriptor();
  void add_central_header(const Record& record);

  ZipStyle style_;
  bool has_hole_ = false;
  std::vector<Record> records_;
  ZipImage image_;
};

}  // namespace viaduct::formats
