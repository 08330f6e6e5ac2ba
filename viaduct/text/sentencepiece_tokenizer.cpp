#include "viaduct/text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <array>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/text/python_text.h"

namespace viaduct::text {
namespace {

using Type = SentencePiece::Type;

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Bytes as text: U+FFFD for each byte that is no part of a character.
std::string text_of_bytes(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const size_t size = std::min(character_size(bytes[0]), bytes.size());
    const std::string_view character = bytes.substr(0, size);
    if (is_utf8(character)) {
      out += character;
      bytes.remove_prefix(size);
    } else {
      out += kReplacement;
      bytes.remove_prefix(1);
    }
  }
  return out;
}

// For each byte of a text, and its end: how many characters begin before it.
std::vector<uint32_t> characters_before(std::string_view text) {
  std::vector<uint32_t> count(text.size() + 1);
  uint32_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    count[i] = characters;
    characters += (static_cast<uint8_t>(text[i]) & 0xC0) != 0x80;
  }
  count[text.size()] = characters;
  return count;
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view content, SentencePieceOptions options,
                                               TokenizerFacts facts)
    : Tokenizer(std::move(facts)),
      model_(parse_sentencepiece_model(content, facts_.origin)),
      options_(std::move(options)),
      segmentation_(model_),
      normalization_(model_, segmentation_.user_defined(), facts_.origin) {
  VIADUCT_USER_CHECK(!model_.has_denormalizer, "{}: rules for decoded text (denormalizer_spec) are not supported",
                     facts_.origin);
  for (const std::string& token : options_.special_tokens) {
    if (token.empty() || special_ids_.contains(token)) continue;
    int32_t id = segmentation_.id_of(token);
    if (id == segmentation_.unknown_id() && token != model_.pieces[static_cast<size_t>(id)].text) {
      id = static_cast<int32_t>(vocab_size());
      added_.push_back(token);
    }
    special_ids_.emplace(token, id);
    special_texts_.emplace(id, token);
    find_special_.add(token, id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const int32_t id = segmentation_.id_of(fmt::format("<0x{:02X}>", byte));
    if (model_.pieces[static_cast<size_t>(id)].type == Type::kByte) byte_ids_.push_back(id);
  }
  VIADUCT_USER_CHECK(!model_.byte_fallback || byte_ids_.size() == 256,
                     "{}: the model falls back to bytes, but only {} of 256 have a piece", facts_.origin,
                     byte_ids_.size());
  const std::array<std::pair<std::string_view, std::string*>, 4> roles = {{{"bos_token", &model_.bos_piece},
                                                                           {"eos_token", &model_.eos_piece},
                                                                           {"unk_token", &model_.unk_piece},
                                                                           {"pad_token", &model_.pad_piece}}};
  for (const auto& [role, piece] : roles) {
    const int32_t id = segmentation_.id_of(*piece);
    const Type type = model_.pieces[static_cast<size_t>(id)].type;
    const bool there = role == "unk_token" ? type == Type::kUnknown : type == Type::kControl;
    if (there && !special_token(role)) facts_.special_tokens.emplace_back(role, *piece);
  }
  if (const auto eos = special_id("eos_token")) facts_.eos_ids.insert(facts_.eos_ids.begin(), *eos);
  std::vector<int32_t> once;
  for (const int32_t id : facts_.eos_ids)
    if (std::find(once.begin(), once.end(), id) == once.end()) once.push_back(id);
  facts_.eos_ids = std::move(once);
}

std::optional<int32_t> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  if (const auto it = special_ids_.find(std::string(token)); it != special_ids_.end()) return it->second;
  const int32_t id = segmentation_.id_of(token);
  if (id == segmentation_.unknown_id() && token != model_.pieces[static_cast<size_t>(id)].text) return std::nullopt;
  return id;
}

std::optional<std::string> SentencePieceTokenizer::id_to_token(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return std::nullopt;
  const auto index = static_cast<size_t>(id);
  return index < model_.pieces.size() ? model_.pieces[index].text : added_[index - model_.pieces.size()];
}

bool SentencePieceTokenizer::is_byte(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < model_.pieces.size() &&
         model_.pieces[static_cast<size_t>(id)].type == Type::kByte;
}

std::vector<SentencePieceTokenizer::Part> SentencePieceTokenizer::parts(std::string_view text) const {
  std::vector<Part> out;
  size_t begin = 0;
  if (!find_special_.empty()) {
    for (size_t at = 0; at < text.size();) {
      const size_t length = find_special_.longest_prefix(text.substr(at));
      if (length == 0) {
        ++at;
        continue;
      }
      if (at > begin) out.push_back({begin, at, -1});
      out.push_back({at, at + length, special_ids_.at(std::string(text.substr(at, length)))});
      begin = at += length;
    }
  }
  if (begin < text.size()) out.push_back({begin, text.size(), -1});
  return out;
}

void SentencePieceTokenizer::encode_part(std::string_view text, size_t begin, size_t end, Encoding& out) const {
  const NormalizedText normalized =
      normalization_.normalize(text.substr(begin, end - begin), begin == 0 || options_.legacy);
  // Megatron looks for it between two special tokens, not behind the last.
  const bool behind_special =
      options_.legacy && end < text.size() && !out.ids.empty() && special_texts_.contains(out.ids.back());
  bool first = true, after_unknown = false;
  for (const Segment& segment : segmentation_.segment(normalized.text)) {
    const auto offset = static_cast<size_t>(segment.text.data() - normalized.text.data());
    const auto from = static_cast<uint32_t>(begin) + normalized.origin[offset];
    const auto to = static_cast<uint32_t>(begin) + normalized.origin[offset + segment.text.size()];
    // The space that the dummy prefix made behind a special token.
    const bool dropped = first && behind_special && segment.text == kSpaceSymbol;
    first = false;
    if (dropped) continue;
    const bool unknown = segment.id == segmentation_.unknown_id();
    if (unknown && model_.byte_fallback) {
      for (const char byte : segment.text) {
        out.ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
        out.spans.push_back({from, to});
      }
    } else if (unknown && after_unknown) {
      out.spans.back().end = to;  // a run of unknown characters is one unknown token
    } else {
      out.ids.push_back(segment.id);
      out.spans.push_back({from, to});
    }
    after_unknown = unknown;
  }
}

Encoding SentencePieceTokenizer::encode_with_spans(std::string_view text, bool add_special_tokens) const {
  VIADUCT_USER_CHECK(is_utf8(text), "{}: the text is not UTF-8", facts_.origin);
  VIADUCT_USER_CHECK(text.size() < UINT32_MAX, "{}: a text of {} bytes is too long", facts_.origin, text.size());
  Encoding out;
  const auto add = [&](std::string_view role) {
    const std::optional<int32_t> id = special_id(role);
    VIADUCT_USER_CHECK(id, "{}: {} is to be added to every text, but there is none", facts_.origin, role);
    out.ids.push_back(*id);
    out.spans.push_back({});
  };
  if (add_special_tokens && options_.add_bos) add("bos_token");
  const size_t in_front = out.ids.size();
  for (const Part& part : parts(text)) {
    if (part.special < 0) {
      encode_part(text, part.begin, part.end, out);
    } else {
      out.ids.push_back(part.special);
      out.spans.push_back({static_cast<uint32_t>(part.begin), static_cast<uint32_t>(part.end)});
    }
  }
  const std::vector<uint32_t> characters = characters_before(text);
  for (size_t i = in_front; i < out.spans.size(); ++i)
    out.spans[i] = {characters[out.spans[i].begin], characters[out.spans[i].end]};
  if (add_special_tokens && options_.add_eos) add("eos_token");
  return out;
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return encode_with_spans(text, add_special_tokens).ids;
}

std::string SentencePieceTokenizer::decode_piece(int32_t id, bool& at_begin) const {
  const SentencePiece& piece = model_.pieces[static_cast<size_t>(id)];
  if (piece.type == Type::kControl) return "";
  if (piece.type == Type::kUnknown) {
    at_begin = false;
    return model_.unk_surface;
  }
  std::string_view text = piece.text;
  const SentencePieceNormalizer& rules = model_.normalizer;
  if (at_begin && (rules.add_dummy_prefix || rules.remove_extra_whitespaces) && text.starts_with(kSpaceSymbol)) {
    text.remove_prefix(kSpaceSymbol.size());
    // Only one space was put there, unless all of them were taken away.
    if (!rules.remove_extra_whitespaces) at_begin = false;
  }
  std::string out;
  while (!text.empty()) {
    const size_t space = text.find(kSpaceSymbol);
    out += text.substr(0, space);
    if (space == std::string_view::npos) break;
    out += ' ';
    text.remove_prefix(space + kSpaceSymbol.size());
  }
  if (!out.empty()) at_begin = false;
  return out;
}

std::string SentencePieceTokenizer::decode_pieces(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string out, bytes;
  bool at_begin = true;
  const auto flush = [&] {
    if (bytes.empty()) return;
    out += text_of_bytes(bytes);
    bytes.clear();
    at_begin = false;
  };
  for (const int32_t id : ids) {
    VIADUCT_USER_CHECK(id >= 0 && id < vocab_size(), "{}: there is no token {} (the vocabulary has {})",
                       facts_.origin, id, vocab_size());
    if (is_byte(id)) {
      const std::string& text = model_.pieces[static_cast<size_t>(id)].text;
      bytes += static_cast<char>(std::stoi(text.substr(3, 2), nullptr, 16));
      continue;
    }
    const auto special = special_texts_.find(id);
    if (special != special_texts_.end()) {
      if (skip_special_tokens) continue;
      flush();
      out += special->second;
      at_begin = false;
      continue;
    }
    flush();
    out += decode_piece(id, at_begin);
  }
  flush();
  return out;
}

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  if (!options_.legacy) return decode_pieces(ids, skip_special_tokens);
  std::string out;
  size_t begin = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto special = special_texts_.find(ids[i]);
    if (special == special_texts_.end()) continue;
    out += decode_pieces(ids.subspan(begin, i - begin), false) + " " + special->second + " ";
    begin = i + 1;
  }
  out += decode_pieces(ids.subspan(begin), false);
  return std::string(strip(out));
}

}  // namespace viaduct::text
