// The metadata of a GGUF file that describes its model.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "viaduct/core/error.h"
#include "viaduct/formats/gguf.h"

namespace viaduct::models {

/// UserError that names the file.
template <class... Args>
[[noreturn]] void fail_gguf(const formats::GgufFile& file, fmt::format_string<Args...> text, Args&&... args) {
  throw UserError(fmt::format("{}: {}", file.path().string(), fmt::format(text, std::forward<Args>(args)...)));
}

/// The keys that begin with the architecture's name. The file outlives it. UserError, naming file and key, for a
/// value of another type, and where it is said.
class GgufKeys {
 public:
  /// `architecture`: general.architecture, which keys begin with.
  GgufKeys(const formats::GgufFile& file, std::string_view architecture);

  /// The file that the keys are of.
  const formats::GgufFile& file() const { return file_; }
  /// "llama.block_count" of "block_count".
  std::string full(std::string_view key) const { return prefix_ + std::string(key); }

  /// A positive 32-bit number; UserError for any other.
  std::optional<int64_t> size(std::string_view key) const;
  /// The same; UserError when it is missing.
  int64_t required_size(std::string_view key) const;

  /// The value of a key; none when it is missing. Keys go without the architecture's name.
  std::optional<int64_t> integer(std::string_view key) const { return file_.integer(full(key)); }
  std::optional<double> number(std::string_view key) const { return file_.number(full(key)); }
  /// The same for a key that must be there: UserError when it is missing.
  double required_number(std::string_view key) const;
  /// As `integer`.
  std::optional<bool> flag(std::string_view key) const { return file_.flag(full(key)); }
  /// As `integer`.
  std::optional<std::string> text(std::string_view key) const { return file_.text(full(key)); }

 private:
  const formats::GgufFile& file_;
  std::string prefix_;
};

}  // namespace viaduct::models
