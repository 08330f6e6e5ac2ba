#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/formats/zip_archive.h"

namespace viaduct::formats {

namespace {

constexpr uint16_t kHasDescriptor = 0x0008;
constexpr uint16_t kUtf8 = 0x0800;
constexpr uint64_t kAlignment = 64;
constexpr uint64_t k32 = 0xffffffffu;

template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}
void put16(std::string& out, uint64_t value) { put(out, static_cast<uint16_t>(value)); }
void put32(std::string& out, uint64_t value) { put(out, static_cast<uint32_t>(value)); }
void put64(std::string& out, uint64_t value) { put(out, value); }

}  // namespace

uint64_t ZipWriter::position() const { return image_.size(); }

void ZipWriter::add_header(std::string_view name, uint64_t size, uint32_t crc, bool hole) {
  VIADUCT_CHECK(name.size() <= 0xffff, "zip entry name of {} bytes", name.size());
  const bool descriptor = hole || (style_ == ZipStyle::kTorch && size > 0);
  Record record{std::string(name),
                position(),
                size,
                crc,
                static_cast<uint16_t>(kUtf8 | (descriptor ? kHasDescriptor : 0)),
                hole};
  std::string extra;
  if (size >= k32) {
    put16(extra, 1);
    put16(extra, 16);
    // The true sizes stand in the descriptor and in the central directory.
    put64(extra, 0);
    put64(extra, 0);
  } else if (record.header_offset >= k32) {
    put16(extra, 1);
    put16(extra, 8);
    put64(extra, record.header_offset);
  }
  if (style_ == ZipStyle::kTorch || hole) {
    const uint64_t before_padding = record.header_offset + 30 + name.size() + extra.size() + 4;
    const uint64_t padding = (kAlignment - before_padding % kAlignment) % kAlignment;
    extra += "FB";
    put16(extra, padding);
    extra.append(padding, 'Z');
  }
  std::string& to = out();
  put32(to, 0x04034b50);
  put16(to, 0);  // version needed
  put16(to, record.flags);
  put16(to, 0);  // stored
  put32(to, 0);  // no time, no date
  put32(to, descriptor ? 0 : crc);
  put32(to, descriptor ? 0 : size);
  put32(to, descriptor ? 0 : size);
  put16(to, name.size());
  put16(to, extra.size());
  to += name;
  to += extra;
  records_.push_back(std::move(record));
}

void ZipWriter::add_descriptor() {
  const Record& record = records_.back();
  if (!(record.flags & kHasDescriptor)) return;
  std::string& to = out();
  put32(to, 0x08074b50);
  if (record.hole) image_.crc_offsets.push_back(position());
  put32(to, record.crc32);
  if (record.size >= k32 || record.header_offset >= k32) {
    put64(to, record.size);
    put64(to, record.size);
  } else {
    put32(to, record.size);
    put32(to, record.size);
  }
}

void ZipWriter::add(std::string_view name, std::string_view bytes) {
  add_header(name, bytes.size(), crc32(std::as_bytes(std::span(bytes))), false);
  out() += bytes;
  add_descriptor();
}

void ZipWriter::add_hole(std::string_view name, uint64_t size) {
  VIADUCT_CHECK(!has_hole_, "a second hole in one archive");
  add_header(name, size, 0, true);
  has_hole_ = true;
  image_.hole_size = size;
  add_descriptor();
}

void ZipWriter::add_central_header(const Record& record) {
  std::string extra;
  const bool wide_size = record.size >= k32, wide_offset = record.header_offset >= k32;
  if (wide_size || wide_offset) {
    put16(extra, 1);
    put16(extra, (wide_size ? 16 : 0) + (wide_offset ? 8 : 0));
    if (wide_size) {
      put64(extra, record.size);
      put64(extra, record.size);
    }
    if (wide_offset) put64(extra, record.header_offset);
  }
  std::string& to = out();
  put32(to, 0x02014b50);
  put16(to, 0);  // version made by
  put16(to, 0);  // version needed
  put16(to, record.flags);
  put16(to, 0);
  put32(to, 0);
  if (record.hole) image_.crc_offsets.push_back(position());
  put32(to, record.crc32);
  put32(to, wide_size ? k32 : record.size);
  put32(to, wide_size ? k32 : record.size);
  put16(to, record.name.size());
  put16(to, extra.size());
  put16(to, 0);  // comment
  put16(to, 0);  // disk
  put16(to, 0);  // internal attributes
  put32(to, 0);  // external attributes
  put32(to, wide_offset ? k32 : record.header_offset);
  to += record.name;
  to += extra;
}

ZipImage ZipWriter::finish() {
  const uint64_t directory = position();
  for (const Record& record : records_) add_central_header(record);
  const uint64_t end = position();
  const uint64_t directory_size = end - directory;
  const uint64_t count = records_.size();
  std::string& to = out();
  if (style_ == ZipStyle::kTorch || directory >= k32 || count >= 0xffff) {
    put32(to, 0x06064b50);
    put64(to, 44);
    put16(to, 0x031e);  // made by: Unix, 3.0
    put16(to, 45);
    put32(to, 0);
    put32(to, 0);
    put64(to, count);
    put64(to, count);
    put64(to, directory_size);
    put64(to, directory);
    put32(to, 0x07064b50);
    put32(to, 0);
    put64(to, end);
    put32(to, 1);
  }
  put32(to, 0x06054b50);
  put32(to, 0);
  put16(to, std::min<uint64_t>(count, 0xffff));
  put16(to, std::min<uint64_t>(count, 0xffff));
  put32(to, std::min(directory_size, k32));
  put32(to, std::min(directory, k32));
  put16(to, 0);
  return std::move(image_);
}

}  // namespace viaduct::formats
