#include "viaduct/data/index_cache.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "viaduct/core/error.h"
#include "viaduct/core/md5.h"

namespace viaduct::data {

namespace {

// Bytes of the UTF-8 character that begins a text; 0 when none does.
size_t character_bytes(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t count = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (count == 0 || text.size() < count) return 0;
  for (size_t i = 1; i < count; ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  return count;
}

// As json.dumps escapes what is not ASCII. A byte of a path that is no UTF-8 is what Python makes of it, a lone
// surrogate.
std::string escaped(std::string_view json) {
  std::string out;
  while (!json.empty()) {
    const size_t count = character_bytes(json);
    const auto lead = static_cast<unsigned char>(json[0]);
    if (count == 1 && lead != 0x7f) {
      out += json[0];
    } else if (count <= 1) {
      out += fmt::format("\\u{:04x}", count == 1 ? lead : 0xdc00u + lead);
    } else {
      uint32_t code = lead & (0xffu >> (count + 1));
      for (size_t i = 1; i < count; ++i) code = code << 6 | (static_cast<unsigned char>(json[i]) & 0x3f);
      if (code >= 0x10000) {
        code -= 0x10000;
        out += fmt::format("\\u{:04x}", 0xd800 + (code >> 10));
        code = 0xdc00 + (code & 0x3ff);
      }
      out += fmt::format("\\u{:04x}", code);
    }
    json.remove_prefix(std::max<size_t>(count, 1));
  }
  return out;
}

}  // namespace

std::string description_text(const Json& unique_identifiers) { return escaped(unique_identifiers.dump(4)); }

IndexCache::IndexCache(Path folder, std::string description, std::string_view dataset_class, std::string_view split)
    : folder_(std::move(folder)),
      description_(std::move(description)),
      base_(fmt::format("{}-{}-{}-", md5_hex(description_), dataset_class, split)) {}

bool IndexCache::has(std::initializer_list<std::string_view> arrays) const {
  const Path description = file("description.txt");
  if (!std::filesystem::is_regular_file(description)) return false;
  for (const std::string_view what : arrays)
    if (!std::filesystem::is_regular_file(array(what))) return false;
  VIADUCT_USER_CHECK(
      read_text_file(description) == description_,
      "{} does not describe the dataset that its name stands for: remove it, and the indexes are built "
      "again",
      description.string());
  return true;
}

void IndexCache::make_folder() const {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  VIADUCT_USER_CHECK(
      !error,
      "cannot make the folder {} for the indexes of a dataset: {}. Give dataset.path_to_cache a folder "
      "that can be written",
      folder_.string(), error.message());
}

void IndexCache::write_description() const { write_file_atomically(file("description.txt"), description_); }

}  // namespace viaduct::data
