#include "viaduct/text/sentencepiece_normalize.h"

#include <algorithm>
#include <cstring>

#include "viaduct/core/error.h"

namespace viaduct::text {

size_t character_size(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

SentencePieceNormalization::SentencePieceNormalization(const SentencePieceModel& model,
                                                       const PieceTrie& user_defined, const std::string& origin)
    : model_(model), user_defined_(user_defined) {
  const std::string& map = model.normalizer.charsmap;
  if (map.empty()) return;
  uint32_t size = 0;
  if (map.size() > 4) std::memcpy(&size, map.data(), 4);
  VIADUCT_USER_CHECK(size > 0 && size % 4 == 0 && size < map.size() - 4 && map.back() == '\0',
                     "{}: the normalisation rules are cut ({} bytes, of which the table should be {})", origin,
                     map.size(), size);
  units_.resize(size / 4);
  std::memcpy(units_.data(), map.data() + 4, size);
  targets_ = std::string_view(map).substr(4 + size);
}

SentencePieceNormalization::Replaced SentencePieceNormalization::replace_prefix(std::string_view text) const {
  if (const size_t length = user_defined_.longest_prefix(text); length > 0) return {text.substr(0, length), length};
  // The format of darts-clone: a unit has the label of the edge that leads to it, the offset of its children, and
  // whether one of them is a leaf with a value.
  const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); };
  size_t longest = 0;
  uint32_t target = 0;
  if (!units_.empty()) {
    uint32_t node = offset(units_[0]);
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<uint8_t>(text[i]);
      node ^= byte;
      if (node >= units_.size()) break;
      const uint32_t unit = units_[node];
      if ((unit & ((1u << 31) | 0xFF)) != byte) break;
      node ^= offset(unit);
      if (node >= units_.size()) break;
      if (unit >> 8 & 1) {
        longest = i + 1;
        target = units_[node] & ((1u << 31) - 1);
      }
    }
  }
  if (longest > 0 && target < targets_.size()) {
    const std::string_view rest = targets_.substr(target);
    return {rest.substr(0, rest.find('\0')), longest};
  }
  const size_t length = std::min(character_size(text[0]), text.size());
  return {text.substr(0, length), length};
}

NormalizedText SentencePieceNormalization::normalize(std::string_view text, bool dummy_prefix) const {
  const SentencePieceNormalizer& rules = model_.normalizer;
  const std::string_view space = rules.escape_whitespaces ? kSpaceSymbol : std::string_view(" ");
  NormalizedText out;
  size_t at = 0;
  const auto append = [&](std::string_view piece, size_t from) {
    out.text += piece;
    out.origin.insert(out.origin.end(), piece.size(), static_cast<uint32_t>(from));
  };
  if (rules.remove_extra_whitespaces) {
    while (at < text.size()) {
      const Replaced replaced = replace_prefix(text.substr(at));
      if (replaced.by != " ") break;
      at += replaced.length;
    }
  }
  if (at == text.size()) {
    out.origin.push_back(static_cast<uint32_t>(at));
    return out;
  }
  const bool add_space = rules.add_dummy_prefix && dummy_prefix;
  if (add_space && !model_.treat_whitespace_as_suffix) append(space, at);
  bool after_space = rules.remove_extra_whitespaces;
  while (at < text.size()) {
    Replaced replaced = replace_prefix(text.substr(at));
    while (after_space && replaced.by.starts_with(' ')) replaced.by.remove_prefix(1);
    if (!replaced.by.empty()) {
      for (const char& byte : replaced.by) {
        if (byte == ' ')
          append(space, at);
        else
          append({&byte, 1}, at);
      }
      after_space = rules.remove_extra_whitespaces && replaced.by.ends_with(' ');
    }
    at += replaced.length;
  }
  if (rules.remove_extra_whitespaces) {
    while (out.text.ends_with(space)) {
      at = out.origin[out.text.size() - space.size()];
      out.text.resize(out.text.size() - space.size());
      out.origin.resize(out.text.size());
    }
  }
  if (add_space && model_.treat_whitespace_as_suffix) append(space, at);
  out.origin.push_back(static_cast<uint32_t>(at));
  return out;
}

}  // namespace viaduct::text
