#include "viaduct/formats/protobuf.h"

#include <bit>
#include <cstring>

#include "viaduct/core/error.h"

namespace viaduct::formats {

namespace {
enum Wire { kVarint = 0, kEightBytes = 1, kLength = 2, kFourBytes = 5 };

template <class T>
T read_as(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}
}  // namespace

bool ProtoReader::next() {
  if (at_ == content_.size()) return false;
  const uint64_t key = varint();
  number_ = static_cast<uint32_t>(key >> 3);
  switch (key & 7) {
    case kVarint: integer_ = varint(); break;
    case kEightBytes: bytes_ = take(8); break;
    case kLength: bytes_ = take(length()); break;
    case kFourBytes: bytes_ = take(4); break;
    default: fail("a field of no known wire type");
  }
  wire_ = static_cast<int>(key & 7);
  return true;
}

float ProtoReader::real() const { return of_wire(kFourBytes), read_as<float>(bytes_); }
double ProtoReader::double_real() const { return of_wire(kEightBytes), read_as<double>(bytes_); }

ProtoReader ProtoReader::message() const {
  of_wire(kLength);
  return {bytes_, offset_ + static_cast<size_t>(bytes_.data() - content_.data()), origin_};
}

void ProtoReader::fail(std::string_view what) const {
  throw UserError(fmt::format("{}: {} at byte {}: this is no {}, or it is cut", origin_.name, what, offset_ + at_,
                              origin_.kind));
}

void ProtoReader::of_wire(int wanted) const {
  if (wire_ != wanted) fail(fmt::format("field {} has another type than it should", number_));
}

uint64_t ProtoReader::varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<uint8_t>(take(1)[0]);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  fail("a number of over 64 bits");
}

size_t ProtoReader::length() {
  const uint64_t size = varint();
  if (size > content_.size() - at_) fail("a field that is longer than the file");
  return static_cast<size_t>(size);
}

std::string_view ProtoReader::take(size_t size) {
  if (size > content_.size() - at_) fail("the end of the file in the middle of a field");
  at_ += size;
  return content_.substr(at_ - size, size);
}

void ProtoWriter::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) out_ += static_cast<char>(value | 0x80);
  out_ += static_cast<char>(value);
}

void ProtoWriter::key(uint32_t number, int wire) { varint(uint64_t{number} << 3 | static_cast<uint64_t>(wire)); }

ProtoWriter& ProtoWriter::integer(uint32_t number, int64_t value) {
  key(number, kVarint);
  varint(static_cast<uint64_t>(value));
  return *this;
}

ProtoWriter& ProtoWriter::real(uint32_t number, float value) {
  key(number, kFourBytes);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int i = 0; i < 4; ++i) out_ += static_cast<char>(bits >> (8 * i));
  return *this;
}

ProtoWriter& ProtoWriter::double_real(uint32_t number, double value) {
  key(number, kEightBytes);
  const auto bits = std::bit_cast<uint64_t>(value);
  for (int i = 0; i < 8; ++i) out_ += static_cast<char>(bits >> (8 * i));
  return *this;
}

ProtoWriter& ProtoWriter::bytes(uint32_t number, std::string_view value) {
  key(number, kLength);
  varint(value.size());
  out_ += value;
  return *this;
}

}  // namespace viaduct::formats
