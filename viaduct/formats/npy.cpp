#include "viaduct/formats/npy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "viaduct/core/append_file.h"
#include "viaduct/core/mapped_file.h"

namespace viaduct::formats {

namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kAlign = 64;  // numpy pads headers so that the data begins at a multiple of this
constexpr size_t kGrowthDigits = 21;

struct TypeName {
  DType dtype;
  std::string_view descr;
};
constexpr TypeName kTypes[] = {
    {DType::kF64, "<f8"}, {DType::kF32, "<f4"},  {DType::kF16, "<f2"}, {DType::kI64, "<i8"},   {DType::kI32, "<i4"},
    {DType::kI16, "<i2"}, {DType::kI8, "|i1"},   {DType::kU64, "<u8"}, {DType::kU32, "<u4"},   {DType::kU16, "<u2"},
    {DType::kU8, "|u1"},  {DType::kBool, "|b1"}, {DType::kC64, "<c8"}, {DType::kC128, "<c16"},
};

// A Python literal of a dict whose values are texts, booleans and tuples of integers: all that a header may hold.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string_view origin) : text_(text), origin_(origin) {}

  NpyHeader parse() {
    NpyHeader header;
    bool has_type = false, has_order = false, has_shape = false;
    expect('{');
    while (!take('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr") {
        header.dtype = type(), once(has_type, key);
      } else if (key == "fortran_order") {
        header.fortran_order = boolean(), once(has_order, key);
      } else if (key == "shape") {
        header.shape = tuple(), once(has_shape, key);
      } else {
        fail(fmt::format("unknown key '{}'", key));
      }
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("there is more behind the header's dict");
    if (!has_type || !has_order || !has_shape) fail("descr, fortran_order or shape is missing");
    return header;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw UserError(fmt::format("{}: not a .npy header: {} at byte {} of the header", origin_, what, at_));
  }
  void once(bool& seen, std::string_view key) const {
    if (std::exchange(seen, true)) fail(fmt::format("'{}' stands twice", key));
  }
  void skip_space() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) && text_[at_] != '\0') ++at_;
  }
  bool take(char wanted) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!take(wanted)) fail(fmt::format("'{}' expected", wanted));
  }
  std::string quoted() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("a text in quotes expected");
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a text without an end");
    const std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }
  DType type() {
    if (take('[')) fail("an array of records, which has several numbers an element");
    const std::string name = quoted();
    for (const TypeName& known : kTypes) {
      const bool is_byte = known.descr[0] == '|' && !name.empty() && is_order(name[0]);
      if (is_byte ? name.substr(1) == known.descr.substr(1) : name == known.descr) return known.dtype;
    }
    if (name.starts_with(">"))
      fail(fmt::format("the type {} is big-endian: write it with .astype('<{}')", name, name.substr(1)));
    fail(fmt::format("the type {} is no number of a known size", name));
  }
  bool boolean() {
    skip_space();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    fail("True or False expected");
  }
  Shape tuple() {
    Shape shape;
    expect('(');
    while (!take(')')) {
      skip_space();
      int64_t size = 0;
      const auto end = std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (end.ec != std::errc() || size < 0) fail("a size expected");
      if (shape.rank() == Shape::kMaxRank) fail(fmt::format("more than {} axes", Shape::kMaxRank));
      at_ = static_cast<size_t>(end.ptr - text_.data());
      shape.push_back(size);
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return shape;
  }
  static bool is_order(char c) { return c == '<' || c == '|' || c == '=' || c == '>'; }

  std::string_view text_, origin_;
  size_t at_ = 0;
};

std::string_view descr(DType dtype) {
  for (const TypeName& known : kTypes)
    if (known.dtype == dtype) return known.descr;
  throw UserError(fmt::format("numpy has no type {}", dtype));
}

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> head, uint64_t file_size, std::string_view origin) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  VIADUCT_USER_CHECK(text.size() >= 10 && text.starts_with(kMagic),
                     "{}: not a .npy file: it does not begin with \\x93NUMPY and a version", origin);
  const int major = static_cast<unsigned char>(text[6]), minor = static_cast<unsigned char>(text[7]);
  VIADUCT_USER_CHECK(major >= 1 && major <= 3 && minor == 0,
                     "{}: a .npy file of version {}.{}; 1.0 to 3.0 are known", origin, major, minor);
  const size_t begin = major == 1 ? 10 : 12;
  uint32_t length = 0;
  VIADUCT_USER_CHECK(text.size() >= begin, "{}: cut within its header: {} bytes", origin, file_size);
  std::memcpy(&length, text.data() + 8, begin - 8);
  VIADUCT_USER_CHECK(length <= kMostNpyHeader - begin, "{}: a .npy header of {} bytes, {} at most are read", origin,
                     length, kMostNpyHeader - begin);
  VIADUCT_USER_CHECK(begin + length <= text.size(), "{}: cut within its header: {} bytes, {} wanted", origin,
                     file_size, begin + length);
  NpyHeader header = HeaderParser(text.substr(begin, length), origin).parse();
  header.data_offset = begin + length;
  const auto bytes = static_cast<uint64_t>(num_bytes(header.dtype, num_elements(header.shape)));
  const uint64_t found = file_size - header.data_offset;
  VIADUCT_USER_CHECK(found == bytes, "{}: {} {} has {} bytes, {} follow the header: copy it again", origin,
                     header.dtype, header.shape, bytes, found);
  return header;
}

std::string npy_header_text(DType dtype, const Shape& shape) {
  std::string sizes;
  for (int axis = 0; axis < shape.rank(); ++axis) sizes += fmt::format("{}{}", axis ? ", " : "", shape[axis]);
  if (shape.rank() == 1) sizes += ",";
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr(dtype), sizes);
  // Room for the first axis to grow in place.
  if (shape.rank() > 0) text.append(kGrowthDigits - std::to_string(shape[0]).size(), ' ');
  text.append(kAlign - (kMagic.size() + 4 + text.size() + 1) % kAlign, ' ');
  text += '\n';
  const auto length = static_cast<uint16_t>(text.size());
  return std::string(kMagic) + std::string("\x01\x00", 2) + static_cast<char>(length & 0xff) +
         static_cast<char>(length >> 8) + text;
}

NpyArray NpyArray::map(const Path& path) {
  auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::byte> bytes = file->bytes();
  const NpyHeader header =
      parse_npy_header(bytes.first(std::min<size_t>(bytes.size(), kMostNpyHeader)), bytes.size(), path.string());
  VIADUCT_USER_CHECK(header.data_offset % static_cast<uint64_t>(info(header.dtype).block_bytes) == 0,
                     "{}: the data begins at byte {}, between elements of {}: write it again with numpy.save",
                     path.string(), header.data_offset, header.dtype);
  NpyArray array;
  array.dtype_ = header.dtype;
  array.shape_ = header.shape;
  array.fortran_order_ = header.fortran_order && header.shape.rank() > 1;
  array.bytes_ = bytes.subspan(header.data_offset);
  array.size_ = static_cast<int64_t>(array.bytes_.size() / static_cast<size_t>(element_size(header.dtype)));
  array.owner_ = std::move(file);
  return array;
}

int64_t NpyArray::integer(int64_t at) const {
  VIADUCT_CHECK(at >= 0 && at < size_, "element {} of {}", at, size_);
  const auto i = static_cast<size_t>(at);
  switch (dtype_) {
    case DType::kI64: return as<int64_t>()[i];
    case DType::kI32: return as<int32_t>()[i];
    case DType::kI16: return as<int16_t>()[i];
    case DType::kI8: return as<int8_t>()[i];
    case DType::kU64: return static_cast<int64_t>(as<uint64_t>()[i]);
    case DType::kU32: return as<uint32_t>()[i];
    case DType::kU16: return as<uint16_t>()[i];
    case DType::kU8: return as<uint8_t>()[i];
    default: VIADUCT_CHECK(false, "{} is no integer", dtype_);
  }
  return 0;
}

void NpyArray::save(const Path& path) const {
  VIADUCT_CHECK(!fortran_order_, "{}: an array in Fortran order is not written", path.string());
  const Path staged = staging_name(path);
  AppendFile file(staged);
  const std::string header = npy_header_text(dtype_, shape_);
  file.append(std::as_bytes(std::span(header)));
  file.append(bytes_);
  file.close();
  std::filesystem::rename(staged, path);
  sync_directory(path.has_parent_path() ? path.parent_path() : Path("."));
}

}  // namespace viaduct::formats
