#include "viaduct/formats/safetensors.h"

#define RAPIDJSON_HAS_STDSTRING 1
#define RAPIDJSON_NOMEMBERITERATORCLASS 1
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <unordered_set>
#include <utility>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::formats {

namespace {

// The upper half of a stub's first 8 bytes ("VSTB"); the lower half is the header's length.
constexpr uint64_t kStubMark = 0x42545356, kStubLength = 0xFFFFFFFF;

// Takes the parser's events as they come; no document is built. The grammar is fixed: an object of objects whose
// members are dtype, shape and data_offsets, and __metadata__ with strings.
struct HeaderHandler {
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  std::string_view origin;
  SafetensorsHeader& header;
  const rapidjson::MemoryStream& stream;
  Place place = Place::kStart;
  std::string key;  // of the member being read
  StoredTensor tensor;
  uint64_t offsets[2] = {0, 0};
  int num_offsets = -1;  // -1: data_offsets not seen
  bool has_dtype = false, has_shape = false, has_metadata = false;

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format("{}: {} (in the header, before byte {})", origin, what, 8 + stream.Tell()));
  }
  std::string here() const { return fmt::format("tensor \"{}\"", tensor.name); }
  bool unexpected(const char* what) {
    fail(place == Place::kTensor || place == Place::kShape || place == Place::kOffsets
             ? fmt::format("{}: \"{}\" is {}", here(), key, what)
             : fmt::format("the header's member \"{}\" is {}", key, what));
  }

  // The reference implementation takes a null for "no metadata".
  bool Null() { return (place == Place::kTop && key == "__metadata__") || unexpected("null"); }
  bool Bool(bool) { return unexpected("a boolean"); }
  bool Double(double) { return unexpected("no whole number of 64 bits"); }
  bool RawNumber(const char*, rapidjson::SizeType, bool) { return unexpected("a number"); }
  bool Int(int value) { return number(value < 0, static_cast<uint64_t>(value)); }
  bool Int64(int64_t value) { return number(value < 0, static_cast<uint64_t>(value)); }
  bool Uint(unsigned value) { return number(false, value); }
  bool Uint64(uint64_t value) { return number(false, value); }
  bool number(bool negative, uint64_t value) {
    if (negative || value > uint64_t{1} << 62)
      fail(fmt::format("{}: \"{}\" holds a size out of range", here(), key));
    if (place == Place::kShape) {
      if (tensor.shape.rank() == Shape::kMaxRank)
        fail(fmt::format("{} has more than {} axes", here(), Shape::kMaxRank));
      tensor.shape.push_back(static_cast<int64_t>(value));
    } else if (place == Place::kOffsets) {
      if (num_offsets >= 2) fail(fmt::format("{}: \"data_offsets\" has more than two numbers", here()));
      offsets[num_offsets++] = value;
    } else {
      return unexpected("a number");
    }
    return true;
  }
  bool String(const char* text, rapidjson::SizeType size, bool) {
    const std::string_view value(text, size);
    if (place == Place::kMetadata) {
      if (header.metadata.size() == kMaxSafetensorsTensors)
        fail(fmt::format("\"__metadata__\" has more than {} entries", kMaxSafetensorsTensors));
      header.metadata.emplace_back(key, value);
      return true;
    }
    if (place != Place::kTensor || key != "dtype") return unexpected("a string");
    const auto dtype = dtype_from_name(value);
    if (!dtype || !safetensors_holds(*dtype)) fail(fmt::format("{}: unknown dtype \"{}\"", here(), value));
    tensor.dtype = *dtype;
    has_dtype = true;
    return true;
  }
  bool Key(const char* text, rapidjson::SizeType size, bool) {
    key.assign(text, size);
    // An escaped half of a surrogate pair is ASCII in the file and no character.
    if (!is_utf8(key)) fail("a name that is not UTF-8");
    if (place == Place::kTop && key == "__metadata__" && std::exchange(has_metadata, true))
      fail("\"__metadata__\" stands twice");
    if (place == Place::kTensor && key != "dtype" && key != "shape" && key != "data_offsets")
      fail(fmt::format("{}: unknown field \"{}\"", here(), key));
    if (place == Place::kTensor && ((key == "dtype" && has_dtype) || (key == "shape" && has_shape) ||
                                    (key == "data_offsets" && num_offsets >= 0)))
      fail(fmt::format("{}: \"{}\" stands twice", here(), key));
    return true;
  }
  bool StartObject() {
    if (place == Place::kStart) {
      place = Place::kTop;
    } else if (place == Place::kTop && key == "__metadata__") {
      place = Place::kMetadata;
    } else if (place == Place::kTop) {
      place = Place::kTensor;
      if (header.tensors.size() == kMaxSafetensorsTensors)
        fail(fmt::format("more than {} tensors", kMaxSafetensorsTensors));
      tensor = {};
      tensor.name = key;
      has_dtype = has_shape = false;
      num_offsets = -1;
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool EndObject(rapidjson::SizeType) {
    if (place == Place::kTop) {
      place = Place::kEnd;
    } else if (place == Place::kMetadata) {
      place = Place::kTop;
    } else {
      finish_tensor();
      place = Place::kTop;
    }
    return true;
  }
  bool StartArray() {
    if (place == Place::kTensor && key == "shape") {
      place = Place::kShape;
      has_shape = true;
    } else if (place == Place::kTensor && key == "data_offsets") {
      place = Place::kOffsets;
      num_offsets = 0;
    } else {
      return unexpected("an array");
    }
    return true;
  }
  bool EndArray(rapidjson::SizeType) {
    place = Place::kTensor;
    return true;
  }

  void finish_tensor() {
    if (!has_dtype || !has_shape || num_offsets != 2)
      fail(fmt::format("{} lacks {}", here(),
                       !has_dtype   ? "\"dtype\""
                       : !has_shape ? "\"shape\""
                                    : "two \"data_offsets\""));
    if (offsets[1] < offsets[0] || offsets[1] > header.data_size)
      fail(fmt::format(
          "{}: data_offsets [{}, {}] do not lie in the file's {} data bytes; the file is truncated or its "
          "header damaged",
          here(), offsets[0], offsets[1], header.data_size));
    const uint64_t bytes = bytes_of_shape();
    if (bytes != offsets[1] - offsets[0])
      fail(fmt::format("{}: {} {} has {} bytes, data_offsets [{}, {}] give {}", here(), tensor.dtype, tensor.shape,
                       bytes, offsets[0], offsets[1], offsets[1] - offsets[0]));
    StoredChunk chunk;
    chunk.offset = Shape::filled(tensor.shape.rank(), 0);
    chunk.size = tensor.shape;
    chunk.byte_offset = header.data_start + offsets[0];
    tensor.chunks.push_back(std::move(chunk));
    header.tensors.push_back(std::move(tensor));
  }
  uint64_t bytes_of_shape() const {
    try {
      return static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
    } catch (const UserError& error) {
      fail(fmt::format("{}: {} {}: {}", here(), tensor.dtype, tensor.shape, error.what()));
    }
  }
};

template <class Item, class Name>
void check_unique(const std::vector<Item>& items, std::string_view what, std::string_view origin, Name name) {
  std::unordered_set<std::string_view> names;
  names.reserve(items.size());
  for (const Item& item : items)
    VIADUCT_USER_CHECK(names.insert(name(item)).second, "{}: {} \"{}\" stands twice in the header", origin, what,
                       name(item));
}

uint64_t end_of(const StoredTensor& tensor) {
  return tensor.chunks[0].byte_offset + static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
}

// The data is one run without holes: each tensor begins where the one before ends.
void check_ranges(const SafetensorsHeader& header, std::string_view origin) {
  uint64_t end = header.data_start;
  const StoredTensor* before = nullptr;
  for (const StoredTensor& tensor : header.tensors) {
    const uint64_t begin = tensor.chunks[0].byte_offset;
    VIADUCT_USER_CHECK(begin >= end,
                       "{}: the data of tensors \"{}\" (up to byte {}) and \"{}\" (from byte {}) overlap", origin,
                       before ? before->name : "", end, tensor.name, begin);
    VIADUCT_USER_CHECK(begin == end, "{}: bytes {} to {}, in front of tensor \"{}\", belong to no tensor", origin,
                       end, begin, tensor.name);
    end = end_of(tensor);
    before = &tensor;
  }
  VIADUCT_USER_CHECK(end == header.data_start + header.data_size,
                     "{}: {} bytes behind the last tensor, which ends at byte {}; the file has {}", origin,
                     header.data_start + header.data_size - end, end, header.data_start + header.data_size);
}

}  // namespace

bool safetensors_holds(DType dtype) { return !is_block_quantized(dtype) && dtype != DType::kC128; }

SafetensorsHeader parse_safetensors_header(std::string text, uint64_t file_size, std::string_view origin) {
  SafetensorsHeader header;
  header.text = std::move(text);
  header.data_start = 8 + header.text.size();
  VIADUCT_USER_CHECK(header.data_start <= file_size, "{}: the header of {} bytes does not fit the file of {}",
                     origin, header.text.size(), file_size);
  header.data_size = file_size - header.data_start;
  VIADUCT_USER_CHECK(is_utf8(header.text), "{}: the header is not UTF-8", origin);
  VIADUCT_USER_CHECK(header.text.starts_with("{"), "{}: the header does not begin with {{ at byte 8", origin);
  rapidjson::MemoryStream stream(header.text.data(), header.text.size());
  HeaderHandler handler{origin, header, stream};
  header.tensors.reserve(std::min(header.text.size() / 100, kMaxSafetensorsTensors));
  rapidjson::Reader reader;
  const rapidjson::ParseResult result = reader.Parse<rapidjson::kParseIterativeFlag>(stream, handler);
  VIADUCT_USER_CHECK(!result.IsError(), "{}: the header is not JSON: {} at byte {}", origin,
                     rapidjson::GetParseError_En(result.Code()), 8 + result.Offset());
  const auto by_offset = [](const StoredTensor& a, const StoredTensor& b) {
    const uint64_t x = a.chunks[0].byte_offset, y = b.chunks[0].byte_offset;
    return x != y ? x < y : end_of(a) < end_of(b);  // empty tensors share their offset with the next
  };
  if (!std::is_sorted(header.tensors.begin(), header.tensors.end(), by_offset))
    std::stable_sort(header.tensors.begin(), header.tensors.end(), by_offset);
  check_unique(header.tensors, "tensor", origin,
               [](const StoredTensor& tensor) -> std::string_view { return tensor.name; });
  check_unique(header.metadata, "metadata", origin,
               [](const auto& entry) -> std::string_view { return entry.first; });
  check_ranges(header, origin);
  return header;
}

uint64_t safetensors_header_size(std::span<const std::byte> start, uint64_t file_size, std::string_view origin,
                                 Stubs stubs) {
  VIADUCT_USER_CHECK(start.size() >= 8, "{}: {} bytes are too few for a safetensors file", origin, start.size());
  uint64_t length;
  std::memcpy(&length, start.data(), 8);
  if (length >> 32 == kStubMark) {
    VIADUCT_USER_CHECK(stubs == Stubs::kTaken,
                       "{} is a stub that --stream made: it holds the header of a file of the hub, and none of its "
                       "data. Give the model's name with --stream, or fetch it with viaduct download",
                       origin);
    length &= kStubLength;
  }
  VIADUCT_USER_CHECK(length <= kMaxSafetensorsHeader && length <= file_size - 8,
                     "{}: bytes 0 to 8 give a header of {} bytes, in a file of {}; the file is truncated or not a "
                     "safetensors file",
                     origin, length, file_size);
  VIADUCT_USER_CHECK(length > 0 && start.size() > 8 && start[8] == std::byte{'{'},
                     "{}: byte 8 should begin a JSON header with {{; not a safetensors file", origin);
  return length;
}

void write_safetensors_stub(const Path& path, std::string_view header, uint64_t file_size) {
  VIADUCT_CHECK(header.size() <= kMaxSafetensorsHeader && header.size() + 8 <= file_size);
  File file = File::open(path, File::Mode::kWrite);
  file.resize(0);
  const uint64_t mark = kStubMark << 32 | header.size();
  file.write(0, std::as_bytes(std::span(&mark, 1)));
  file.write(8, std::as_bytes(std::span(header)));
  file.resize(file_size);
  file.sync();
  file.close();
}

SafetensorsHeader read_safetensors_header(const File& file, Stubs stubs) {
  const std::string origin = file.path().string();
  const uint64_t size = file.size();
  // One read gets length and header of most files; what lies behind it is not wanted now.
  file.expect_scattered_reads();
  std::string start(std::min<uint64_t>(size, 64u << 10), '\0');
  file.read(0, std::as_writable_bytes(std::span(start)));
  const uint64_t length = safetensors_header_size(std::as_bytes(std::span(start)), size, origin, stubs);
  std::string text = start.substr(8, length);
  if (text.size() < length) {
    const size_t have = text.size();
    text.resize(length);
    file.read(8 + have, std::as_writable_bytes(std::span(text)).subspan(have));
  }
  return parse_safetensors_header(std::move(text), size, origin);
}

SafetensorsFile::SafetensorsFile(const Path& path)
    : files_{path}, header_(read_safetensors_header(File::open(path, File::Mode::kRead))) {}

bool is_safetensors_file(const Path& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  if (path.filename().string().ends_with(".safetensors")) return true;
  const File file = File::open(path, File::Mode::kRead);
  char start[9];
  if (file.read_some(0, std::as_writable_bytes(std::span(start))) < sizeof start) return false;
  uint64_t length;
  std::memcpy(&length, start, 8);
  return start[8] == '{' && length <= kMaxSafetensorsHeader && length <= file.size() - 8;
}

std::unique_ptr<TensorReader> open_safetensors(const Path& path) { return std::make_unique<SafetensorsFile>(path); }

}  // namespace viaduct::formats
