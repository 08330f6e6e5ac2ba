// Writes GGUF files byte by byte, wrong ones too.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct::formats::testing {

class GgufBuilder {
 public:
  // What the preamble claims; the counts are those of what was added unless set.
  std::string magic = "GGUF";
  uint32_t version = 3;
  int64_t claimed_tensors = -1;
  int64_t claimed_entries = -1;
  uint64_t alignment = 32;  // of the data section; an entry must be added for another one
  std::string data;

  template <class T>
  static std::string bytes(T value) {
    static_assert(std::is_arithmetic_v<T>);
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static std::string string(std::string_view text) { return bytes(uint64_t{text.size()}) + std::string(text); }
  static std::string strings(const std::vector<std::string>& texts) {
    std::string out = bytes(uint32_t{8}) + bytes(uint64_t{texts.size()});
    for (const std::string& text : texts) out += string(text);
    return out;
  }
  template <class T>
  static std::string numbers(uint32_t type, const std::vector<T>& values) {
    std::string out = bytes(type) + bytes(uint64_t{values.size()});
    for (const T value : values) out += bytes(value);
    return out;
  }

  // A metadata entry of a type number and the value's bytes.
  GgufBuilder& entry(std::string_view key, uint32_t type, const std::string& value) {
    metadata_ += string(key) + bytes(type) + value;
    ++entries_;
    return *this;
  }
  GgufBuilder& u32(std::string_view key, uint32_t value) { return entry(key, 4, bytes(value)); }
  GgufBuilder& i32(std::string_view key, int32_t value) { return entry(key, 5, bytes(value)); }
  GgufBuilder& f32(std::string_view key, float value) { return entry(key, 6, bytes(value)); }
  GgufBuilder& flag(std::string_view key, bool value) { return entry(key, 7, bytes(uint8_t{value})); }
  GgufBuilder& text(std::string_view key, std::string_view value) { return entry(key, 8, string(value)); }

  // A tensor's header; `axes` fastest first, as in the file.
  GgufBuilder& tensor_at(std::string_view name, const std::vector<uint64_t>& axes, uint32_t type, uint64_t offset) {
    infos_ += string(name) + bytes(uint32_t(axes.size()));
    for (const uint64_t size : axes) infos_ += bytes(size);
    infos_ += bytes(type) + bytes(offset);
    ++tensors_;
    return *this;
  }
  // A tensor with its data behind the others'.
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& axes, uint32_t type,
                      std::string_view values) {
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    tensor_at(name, axes, type, data.size());
    data += values;
    return *this;
  }
  GgufBuilder& f32_tensor(std::string_view name, const std::vector<uint64_t>& axes) {
    uint64_t count = 1;
    for (const uint64_t size : axes) count *= size;
    return tensor(name, axes, 0, std::string(count * 4, '\0'));
  }

  std::string build() const {
    std::string out = magic + bytes(version);
    out += bytes(claimed_tensors < 0 ? tensors_ : uint64_t(claimed_tensors));
    out += bytes(claimed_entries < 0 ? entries_ : uint64_t(claimed_entries));
    out += metadata_ + infos_;
    if (alignment > 0 && !data.empty()) out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }

 private:
  uint64_t entries_ = 0, tensors_ = 0;
  std::string metadata_, infos_;
};

// A file in the test's temporary folder that goes away with this object.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view content) {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    static int number = 0;
    path_ = Path(::testing::TempDir()) / (std::string(test->test_suite_name()) + "." + test->name() + "." +
                                          std::to_string(::getpid()) + "." + std::to_string(number++));
    write_file(path_, content);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const Path& path() const { return path_; }

 private:
  Path path_;
};

}  // namespace viaduct::formats::testing
