#include "viaduct/formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/gguf_parts.h"

namespace viaduct::formats {

static_assert(std::endian::native == std::endian::little, "values are copied as they lie in the file");

namespace {

// What a header may need at most. The largest real ones (260,000 tokens with merges) stay below 20 MiB.
constexpr uint64_t kMaxHeaderBytes = 64u << 20;
constexpr uint64_t kMaxEntries = 1u << 16;
constexpr uint64_t kMaxTensors = 1u << 17;
constexpr uint64_t kMaxNestedArrays = 4096;
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kMaxNameBytes = 4096;
constexpr uint32_t kMaxAxes = 4;
constexpr uint64_t kMaxAlignment = 1u << 20;

constexpr std::string_view kTypeNames[kNumGgufTypes] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                                        "int32",  "float32", "bool",   "string", "array",
                                                        "uint64", "int64",   "float64"};
constexpr uint8_t kTypeBytes[kNumGgufTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// ggml's tensor types by number; those that were removed from it have no name.
constexpr std::string_view kTensorTypeNames[] = {
    "F32",   "F16",    "Q4_0",  "Q4_1", "",     "",        "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8",    "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16",  "",       "",
    "",      "TQ1_0",  "TQ2_0", "",     "",     "",        "MXFP4",  "NVFP4",   "Q1_0"};

std::optional<DType> tensor_dtype(uint32_t type) {
  switch (type) {
    case 0: return DType::kF32;
    case 1: return DType::kF16;
    case 2: return DType::kQ4_0;
    case 3: return DType::kQ4_1;
    case 6: return DType::kQ5_0;
    case 7: return DType::kQ5_1;
    case 8: return DType::kQ8_0;
    case 10: return DType::kQ2_K;
    case 11: return DType::kQ3_K;
    case 12: return DType::kQ4_K;
    case 13: return DType::kQ5_K;
    case 14: return DType::kQ6_K;
    case 20: return DType::kIQ4_NL;
    case 23: return DType::kIQ4_XS;
    case 30: return DType::kBF16;
    case 39: return DType::kMXFP4;
    default: return std::nullopt;
  }
}

constexpr std::string_view kReadTypes =
    "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4";

std::string tensor_type_name(uint32_t type) {
  if (type < std::size(kTensorTypeNames) && !kTensorTypeNames[type].empty())
    return std::string(kTensorTypeNames[type]);
  return std::to_string(type);
}

template <class T>
T element(const std::string& bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

std::string_view name(GgufType type) {
  const auto index = static_cast<uint32_t>(type);
  return index < kNumGgufTypes ? kTypeNames[index] : "unknown";
}

void GgufValue::check_index(int64_t i) const {
  VIADUCT_USER_CHECK(i >= 0 && i < count_, "element {} of a value with {} elements", i, count_);
}

void GgufValue::wrong_type(std::string_view wanted) const {
  const bool nested = element_ == GgufType::kArray;
  detail::throw_user(fmt::format("{} was expected, found {}{}", wanted,
                                 nested ? "an array of arrays" : name(element_),
                                 is_array_ && !nested ? fmt::format(" (array of {})", count_) : ""));
}

int64_t GgufValue::int_at(int64_t i) const {
  check_index(i);
  switch (element_) {
    case GgufType::kU8: return element<uint8_t>(bytes_, i);
    case GgufType::kI8: return element<int8_t>(bytes_, i);
    case GgufType::kU16: return element<uint16_t>(bytes_, i);
    case GgufType::kI16: return element<int16_t>(bytes_, i);
    case GgufType::kU32: return element<uint32_t>(bytes_, i);
    case GgufType::kI32: return element<int32_t>(bytes_, i);
    case GgufType::kI64: return element<int64_t>(bytes_, i);
    case GgufType::kBool: return element<uint8_t>(bytes_, i) != 0;
    case GgufType::kU64: {
      const auto value = element<uint64_t>(bytes_, i);
      VIADUCT_USER_CHECK(value <= uint64_t(std::numeric_limits<int64_t>::max()), "the integer {} is too large",
                         value);
      return static_cast<int64_t>(value);
    }
    default: wrong_type("an integer");
  }
}

double GgufValue::double_at(int64_t i) const {
  check_index(i);
  if (element_ == GgufType::kF32) return element<float>(bytes_, i);
  if (element_ == GgufType::kF64) return element<double>(bytes_, i);
  if (element_ == GgufType::kString || element_ == GgufType::kArray) wrong_type("a number");
  return static_cast<double>(int_at(i));
}

bool GgufValue::bool_at(int64_t i) const {
  check_index(i);
  if (element_ != GgufType::kBool) wrong_type("a bool");
  return element<uint8_t>(bytes_, i) != 0;
}

std::string_view GgufValue::string_at(int64_t i) const {
  check_index(i);
  if (element_ != GgufType::kString) wrong_type("a string");
  const uint64_t begin = i == 0 ? 0 : ends_[static_cast<size_t>(i) - 1];
  return std::string_view(bytes_).substr(begin, ends_[static_cast<size_t>(i)] - begin);
}

const GgufValue& GgufValue::array_at(int64_t i) const {
  check_index(i);
  if (element_ != GgufType::kArray) wrong_type("an array");
  return arrays_[static_cast<size_t>(i)];
}

const GgufValue* GgufFile::find_value(std::string_view key) const {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? nullptr : &metadata_[it->second].second;
}

namespace {

// Runs `get` on a single value; the error names file and key.
template <class Get>
auto single_value(const GgufFile& file, std::string_view key, Get get)
    -> std::optional<decltype(get(*file.find_value(key)))> {
  const GgufValue* value = file.find_value(key);
  if (value == nullptr) return std::nullopt;
  try {
    VIADUCT_USER_CHECK(!value->is_array(), "a single value was expected, found an array");
    return get(*value);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: metadata key {}: {}", file.path().string(), key, error.what()));
  }
}

}  // namespace

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
  return single_value(*this, key, [](const GgufValue& value) { return value.int_at(); });
}

std::optional<double> GgufFile::number(std::string_view key) const {
  return single_value(*this, key, [](const GgufValue& value) { return value.double_at(); });
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
  return single_value(*this, key, [](const GgufValue& value) { return value.bool_at(); });
}

std::optional<std::string> GgufFile::text(std::string_view key) const {
  return single_value(*this, key, [](const GgufValue& value) {
    const std::string_view text = value.string_at();
    VIADUCT_USER_CHECK(is_utf8(text), "the string is not UTF-8");
    return std::string(text);
  });
}

// Reads the header from front to back. Nothing is allocated that the rest of the file could not fill.
class GgufParser {
 public:
  GgufParser(const Path& path, GgufFile& out) : file_(File::open(path, File::Mode::kRead)), out_(out) {
    size_ = file_.size();
    buffer_.resize(std::min<uint64_t>(size_, 64u << 10));
  }

  void parse() {
    out_.files_.push_back(file_.path());
    read_preamble();
    read_metadata();
    read_tensors();
    place_tensors();
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(uint64_t offset, fmt::format_string<Args...> text, Args&&... args) const {
    throw UserError(fmt::format("reading GGUF file {}: {} (at byte {})", file_.path().string(),
                                fmt::format(text, std::forward<Args>(args)...), offset));
  }

  // The bytes that the header may still use.
  uint64_t remaining() const { return std::min(size_, kMaxHeaderBytes) - position_; }

  void need(uint64_t bytes, std::string_view what) const {
    if (bytes <= remaining()) return;
    if (size_ - position_ >= bytes)
      fail(position_, "{} goes beyond the {} MiB that a header may have", what, kMaxHeaderBytes >> 20);
    fail(position_,
         "the file ends inside {}, which needs {} bytes; {} are left. The file is cut short or damaged: "
         "fetch it again",
         what, bytes, size_ - position_);
  }

  void take(char* to, uint64_t bytes, std::string_view what) {
    need(bytes, what);
    while (bytes > 0) {
      if (position_ < buffered_from_ || position_ >= buffered_to_) {
        const uint64_t n = std::min<uint64_t>(buffer_.size(), size_ - position_);
        file_.read(position_, std::span(buffer_).first(n));
        buffered_from_ = position_;
        buffered_to_ = position_ + n;
      }
      const uint64_t n = std::min(bytes, buffered_to_ - position_);
      std::memcpy(to, buffer_.data() + (position_ - buffered_from_), n);
      to += n;
      bytes -= n;
      position_ += n;
    }
  }

  template <class T>
  T take(std::string_view what) {
    T value;
    take(reinterpret_cast<char*>(&value), sizeof(T), what);
    return value;
  }

  // Appends a string to `to`.
  void take_string(std::string& to, std::string_view what) {
    const auto length = take<uint64_t>(what);
    need(length, what);
    const size_t before = to.size();
    to.resize(before + length);
    take(to.data() + before, length, what);
  }

  std::string take_name(std::string_view what) {
    const uint64_t at = position_;
    std::string text;
    const auto length = take<uint64_t>(what);
    if (length > kMaxNameBytes) fail(at, "{} has {} bytes, more than {}", what, length, kMaxNameBytes);
    text.resize(length);
    take(text.data(), length, what);
    if (!is_utf8(text)) fail(at, "{} is not UTF-8", what);
    return text;
  }

  void read_preamble() {
    char magic[4] = {};
    if (size_ >= 4) take(magic, 4, "the magic number");
    if (std::memcmp(magic, "GGUF", 4) != 0) fail(0, "it does not begin with 'GGUF'; it is no GGUF file");
    const auto version = take<uint32_t>("the version");
    if ((version & 0xFFFF) == 0 && version != 0)
      fail(4,
           "it is big-endian; only little-endian GGUF can be read. Convert it again on or for a little-endian "
           "machine");
    if (version != 2 && version != 3)
      fail(4, "it has version {}; versions 2 and 3 can be read. Convert it again with a current llama.cpp",
           version);
    out_.version_ = version;
    tensor_count_ = take<uint64_t>("the number of tensors");
    entry_count_ = take<uint64_t>("the number of metadata entries");
    // The least that one takes: name length, number of axes, type, offset; key length, type, value.
    if (tensor_count_ > kMaxTensors || tensor_count_ > remaining() / 24)
      fail(8, "it claims {} tensors, which cannot be in a file of {} bytes", tensor_count_, size_);
    if (entry_count_ > kMaxEntries || entry_count_ > remaining() / 13)
      fail(16, "it claims {} metadata entries, which cannot be in a file of {} bytes", entry_count_, size_);
  }

  GgufType take_type(const std::string& key) {
    const uint64_t at = position_;
    const auto type = take<uint32_t>("a value's type");
    if (type >= kNumGgufTypes) fail(at, "metadata key {} has value type {}, which GGUF does not know", key, type);
    return static_cast<GgufType>(type);
  }

  GgufValue take_value(const std::string& key, GgufType type, int depth) {
    GgufValue value;
    value.element_ = type;
    value.count_ = 1;
    if (type == GgufType::kArray) {
      if (depth >= kMaxArrayDepth)
        fail(position_, "metadata key {} nests arrays deeper than {}", key, kMaxArrayDepth);
      value.is_array_ = true;
      value.element_ = take_type(key);
      const uint64_t at = position_;
      const auto count = take<uint64_t>("an array's length");
      const bool has_length = value.element_ == GgufType::kString;
      const uint64_t least = has_length                           ? 8
                             : value.element_ == GgufType::kArray ? 12
                                                                  : kTypeBytes[uint32_t(value.element_)];
      if (count > remaining() / least)
        fail(at, "metadata key {} claims an array of {} values of type {}, more than the file can hold", key, count,
             name(value.element_));
      value.count_ = static_cast<int64_t>(count);
    }
    const std::string what = fmt::format("the value of metadata key {}", key);
    const auto count = static_cast<uint64_t>(value.count_);
    switch (value.element_) {
      case GgufType::kString:
        value.ends_.reserve(count);
        for (uint64_t i = 0; i < count; ++i) {
          take_string(value.bytes_, what);
          value.ends_.push_back(value.bytes_.size());
        }
        break;
      case GgufType::kArray:
        nested_arrays_ += count;
        if (nested_arrays_ > kMaxNestedArrays)
          fail(position_, "metadata key {} has more than {} nested arrays", key, kMaxNestedArrays);
        for (uint64_t i = 0; i < count; ++i) value.arrays_.push_back(take_value(key, GgufType::kArray, depth + 1));
        break;
      default: {
        const uint64_t bytes = count * kTypeBytes[uint32_t(value.element_)];
        need(bytes, what);
        value.bytes_.resize(bytes);
        take(value.bytes_.data(), bytes, what);
      }
    }
    return value;
  }

  void read_metadata() {
    out_.metadata_.reserve(entry_count_);
    for (uint64_t i = 0; i < entry_count_; ++i) {
      const uint64_t at = position_;
      std::string key = take_name("a metadata key");
      const GgufType type = take_type(key);
      GgufValue value = take_value(key, type, 0);
      out_.metadata_.emplace_back(std::move(key), std::move(value));
      if (!out_.by_key_.emplace(out_.metadata_.back().first, i).second)
        fail(at, "metadata key {} occurs twice", out_.metadata_.back().first);
    }
    if (const auto alignment = out_.integer("general.alignment")) {
      const auto value = static_cast<uint64_t>(*alignment);
      VIADUCT_USER_CHECK(std::has_single_bit(value) && value <= kMaxAlignment,
                         "reading GGUF file {}: general.alignment is {}; it must be a power of two up to {}",
                         file_.path().string(), *alignment, kMaxAlignment);
      out_.alignment_ = value;
    }
  }

  void read_tensors() {
    out_.tensors_.reserve(tensor_count_);
    std::unordered_set<std::string_view> names;
    for (uint64_t i = 0; i < tensor_count_; ++i) {
      const uint64_t at = position_;
      StoredTensor& tensor = out_.tensors_.emplace_back();
      tensor.name = take_name("a tensor's name");
      if (!names.insert(tensor.name).second) fail(at, "tensor {} occurs twice", tensor.name);
      read_tensor(tensor, at);
    }
  }

  void read_tensor(StoredTensor& tensor, uint64_t at) {
    const auto axes = take<uint32_t>("a tensor's number of axes");
    if (axes > kMaxAxes) fail(at, "tensor {} has {} axes, more than {}", tensor.name, axes, kMaxAxes);
    tensor.shape = Shape::filled(static_cast<int>(axes), 0);
    for (uint32_t i = 0; i < axes; ++i) {
      const auto size = take<uint64_t>("a tensor's shape");
      if (size > uint64_t(std::numeric_limits<int64_t>::max()))
        fail(at, "tensor {} has {} elements along an axis", tensor.name, size);
      tensor.shape[static_cast<int>(axes - 1 - i)] = static_cast<int64_t>(size);
    }
    const auto type = take<uint32_t>("a tensor's type");
    const std::optional<DType> dtype = tensor_dtype(type);
    if (!dtype)
      fail(at,
           "tensor {} has type {}, which cannot be read here. Supported types: {}; use a file quantised to one of "
           "these",
           tensor.name, tensor_type_name(type), kReadTypes);
    tensor.dtype = *dtype;
    const int block = info(*dtype).block_elements;
    const int64_t row = axes == 0 ? 1 : tensor.shape[static_cast<int>(axes) - 1];
    if (row % block != 0)
      fail(at, "tensor {} of type {} has rows of {} elements, no multiple of {}", tensor.name, *dtype, row, block);
    const auto offset = take<uint64_t>("a tensor's offset");
    if (offset % out_.alignment_ != 0)
      fail(at, "tensor {} lies at offset {}, no multiple of the alignment {}", tensor.name, offset,
           out_.alignment_);
    StoredChunk& chunk = tensor.chunks.emplace_back();
    chunk.offset = Shape::filled(static_cast<int>(axes), 0);
    chunk.size = tensor.shape;
    chunk.byte_offset = offset;  // in the data section, whose begin is known later
  }

  void place_tensors() {
    const uint64_t mask = out_.alignment_ - 1;
    const uint64_t data_begin = (position_ + mask) & ~mask;
    std::vector<StoredTensor*> in_order;
    in_order.reserve(out_.tensors_.size());
    for (StoredTensor& tensor : out_.tensors_) {
      uint64_t bytes = 0;
      try {
        bytes = static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
      } catch (const UserError& error) {
        throw UserError(fmt::format("reading GGUF file {}: tensor {} of shape {}: {}", file_.path().string(),
                                    tensor.name, tensor.shape, error.what()));
      }
      uint64_t& offset = tensor.chunks[0].byte_offset;
      const uint64_t in_data = offset;
      const uint64_t data_size = size_ > data_begin ? size_ - data_begin : 0;
      if (in_data > data_size || bytes > data_size - in_data)
        fail(data_begin,
             "tensor {} needs {} bytes at offset {} of the data, which has {} bytes. The file is cut short "
             "or damaged: fetch it again",
             tensor.name, bytes, in_data, data_size);
      offset = data_begin + in_data;
      if (bytes > 0) in_order.push_back(&tensor);
    }
    std::sort(in_order.begin(), in_order.end(), [](const StoredTensor* a, const StoredTensor* b) {
      return a->chunks[0].byte_offset < b->chunks[0].byte_offset;
    });
    for (size_t i = 1; i < in_order.size(); ++i) {
      const StoredTensor& before = *in_order[i - 1];
      const uint64_t end =
          before.chunks[0].byte_offset + static_cast<uint64_t>(num_bytes(before.dtype, num_elements(before.shape)));
      if (in_order[i]->chunks[0].byte_offset < end)
        fail(in_order[i]->chunks[0].byte_offset, "tensors {} and {} overlap", before.name, in_order[i]->name);
    }
  }

  File file_;
  GgufFile& out_;
  uint64_t size_ = 0;
  uint64_t position_ = 0;
  std::vector<std::byte> buffer_;
  uint64_t buffered_from_ = 0;
  uint64_t buffered_to_ = 0;
  uint64_t tensor_count_ = 0;
  uint64_t entry_count_ = 0;
  uint64_t nested_arrays_ = 0;
};

bool is_gguf(const Path& path) {
  std::byte magic[4];
  return File::open(path, File::Mode::kRead).read_some(0, magic) == 4 && std::memcmp(magic, "GGUF", 4) == 0;
}

std::unique_ptr<GgufFile> open_gguf_part(const Path& path) {
  auto file = std::make_unique<GgufFile>();
  GgufParser(path, *file).parse();
  return file;
}

}  // namespace viaduct::formats
