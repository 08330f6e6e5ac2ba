// GGUF: a file that holds metadata (typed key/value pairs) and tensors, some of them quantised in blocks. Versions
// 2 and 3, little-endian; read only. Large models come in several files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// The types of metadata values, numbered as in the file.
enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
/// Types are numbered from 0 to this, without gaps.
inline constexpr uint32_t kNumGgufTypes = 13;
/// "uint32"
std::string_view name(GgufType type);

/// One metadata value: a number, a string, or an array of values of one type. Arrays stay packed as in the file.
class GgufValue {
 public:
  /// kArray for an array of any elements.
  GgufType type() const { return is_array_ ? GgufType::kArray : element_; }
  /// Does it hold a number of values, perhaps none?
  bool is_array() const { return is_array_; }
  /// Of the array's elements; type() for a single value.
  GgufType element_type() const { return element_; }
  /// Elements of an array, 1 for a single value.
  int64_t size() const { return count_; }

  /// Element `i` of an array, or the value itself (i == 0). UserError when it is of another type, does not fit, or
  /// `i` is no index. int_at takes every integer type and bool, double_at every number.
  int64_t int_at(int64_t i = 0) const;
  double double_at(int64_t i = 0) const;
  bool bool_at(int64_t i = 0) const;
  /// The bytes as they are in the file (UTF-8 by the format's rules, unchecked); valid as long as the value.
  std::string_view string_at(int64_t i = 0) const;
  /// Element `i` of an array of arrays; UserError when it is something else or `i` is no index.
  const GgufValue& array_at(int64_t i) const;

 private:
  friend class GgufParser;
  void check_index(int64_t i) const;
  [[noreturn]] void wrong_type(std::string_view wanted) const;

  GgufType element_ = GgufType::kU8;
  bool is_array_ = false;
  int64_t count_ = 0;
  std::string bytes_;              // numbers as they lie in the file, or all strings one after the other
  std::vector<uint64_t> ends_;     // of strings: where each one ends in bytes_
  std::vector<GgufValue> arrays_;  // elements of an array of arrays
};

/// An open GGUF file. Tensors have row-major shapes (GGUF lists the fastest axis first, here it is last) and one
/// chunk each.
class GgufFile : public TensorReader {
 public:
  /// A key and its value.
  using Entry = std::pair<std::string, GgufValue>;

  std::string_view format() const override { return "gguf"; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }

  /// Of the first file, whose version, alignment and metadata these are.
  const Path& path() const { return files_.front(); }
  /// The version of the format: 2 or 3.
  uint32_t version() const { return version_; }
  /// Tensors begin at multiples of so many bytes: general.alignment, else 32.
  uint64_t alignment() const { return alignment_; }
  /// In the file's order; keys are unique.
  const std::vector<Entry>& metadata() const { return metadata_; }
  /// nullptr when there is no such key.
  const GgufValue* find_value(std::string_view key) const;

  /// A key's value as a C++ type, nullopt when the key is absent. UserError naming file and key when it has another
  /// type (strings must also be UTF-8).
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;

 private:
  friend class GgufParser;
  friend std::unique_ptr<GgufFile> open_gguf(const Path& path);

  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  std::vector<Path> files_;
  std::vector<Entry> metadata_;
  std::unordered_map<std::string_view, size_t> by_key_;
  std::vector<StoredTensor> tensors_;
};

/// True when the file begins with GGUF's magic number.
bool is_gguf(const Path& path);

/// Reads the header of a GGUF file, and those of the other files when it is part of a model in several. UserError,
/// with file, key or tensor and byte offset, for a file that is no GGUF of these versions, is cut short, or whose
/// counts, lengths, alignment, types, shapes or offsets make no sense (tensors that overlap or end behind the file
/// included), and for tensors of a type other than F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K,
/// IQ4_NL, IQ4_XS, MXFP4; and for a part that is missing or does not belong to the others.
std::unique_ptr<GgufFile> open_gguf(const Path& path);

}  // namespace viaduct::formats
