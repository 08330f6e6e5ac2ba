#include "viaduct/text/tiktoken_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "viaduct/core/error.h"

namespace viaduct::text {
namespace {

std::optional<std::string> base64_decode(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const auto digit = [](char c) -> int {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  size_t padding = 0;
  while (padding < 2 && text.ends_with('=')) {
    text.remove_suffix(1);
    ++padding;
  }
  std::string out;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int value = digit(text[i]);
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (i % 4 != 0) out += static_cast<char>(bits >> (6 - 2 * (i % 4)) & 0xFF);
  }
  return out;
}

std::optional<TokenRank> parse_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  std::optional<std::string> bytes = base64_decode(line.substr(0, space));
  uint32_t rank = 0;
  const auto [end, error] = std::from_chars(line.data() + space + 1, line.data() + line.size(), rank);
  if (!bytes || error != std::errc() || end != line.data() + line.size() || rank > INT32_MAX) return std::nullopt;
  return TokenRank{std::move(*bytes), rank};
}

std::string_view take_line(std::string_view& rest) {
  const size_t end = rest.find('\n');
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::string packed(std::span<const TokenRank> ranks) {
  std::string out;
  const auto number = [&](uint32_t value) { out.append(reinterpret_cast<const char*>(&value), 4); };
  for (const auto& [bytes, rank] : ranks) {
    number(rank);
    number(static_cast<uint32_t>(bytes.size()));
    out += bytes;
  }
  return out;
}

Json settings(std::string_view pattern, std::span<const std::pair<std::string, int32_t>> special) {
  Json tokens = Json::object();
  for (const auto& [text, id] : special) tokens.set(text, Json(int64_t{id}));
  return Json::object({{"pattern", Json(pattern)}, {"special_tokens", std::move(tokens)}});
}

}  // namespace

bool is_tiktoken_file(std::string_view content) { return parse_line(take_line(content)).has_value(); }

std::vector<TokenRank> parse_tiktoken_file(std::string_view content, const std::string& origin) {
  std::vector<TokenRank> ranks;
  for (size_t number = 1; !content.empty(); ++number) {
    const std::string_view line = take_line(content);
    if (line.empty()) continue;
    std::optional<TokenRank> rank = parse_line(line);
    VIADUCT_USER_CHECK(rank, "{}: line {}: expected a token in base64, a space and its rank", origin, number);
    ranks.push_back(std::move(*rank));
  }
  VIADUCT_USER_CHECK(!ranks.empty(), "{}: there are no tokens in it", origin);
  return ranks;
}

std::vector<TokenRank> parse_tiktoken_json(std::string_view content, size_t limit, uint32_t first_rank,
                                           const std::string& origin) {
  const Json document = Json::parse(content, origin);
  VIADUCT_USER_CHECK(document.is_array(), "{}: expected a list of tokens", origin);
  std::vector<TokenRank> ranks;
  for (const Json& entry : document.items()) {
    if (ranks.size() == limit) break;
    const Json* bytes = entry.is_object() ? entry.find("token_bytes") : nullptr;
    const Json* rank = entry.is_object() ? entry.find("rank") : nullptr;
    VIADUCT_USER_CHECK(bytes && bytes->is_string() && rank && rank->is_integer(),
                       "{}: entry {}: expected an object with rank and token_bytes", origin, ranks.size());
    VIADUCT_USER_CHECK_EQ(rank->as_int(), static_cast<int64_t>(ranks.size()), "{}: rank of entry {}", origin,
                          ranks.size());
    std::optional<std::string> decoded = base64_decode(bytes->as_string());
    VIADUCT_USER_CHECK(decoded, "{}: entry {}: token_bytes is not base64", origin, ranks.size());
    VIADUCT_USER_CHECK(ranks.size() >= 256 || *decoded == std::string(1, static_cast<char>(ranks.size())),
                       "{}: entry {}: the first 256 tokens must be the bytes in order", origin, ranks.size());
    ranks.emplace_back(std::move(*decoded), first_rank + static_cast<uint32_t>(ranks.size()));
  }
  return ranks;
}

TiktokenTokenizer::TiktokenTokenizer(std::span<const TokenRank> ranks, std::string_view pattern,
                                     std::span<const std::pair<std::string, int32_t>> special, bool add_bos,
                                     TokenizerFacts facts)
    : Tokenizer(std::move(facts)),
      rust_(RustTokenizer::open_tiktoken(packed(ranks), settings(pattern, special), facts_.origin)) {
  vocab_size_ = rust_.info().at("vocab_size").as_int();
  if (add_bos) {
    bos_ = special_id("bos_token");
    VIADUCT_USER_CHECK(bos_, "{}: bos_token is to be added to every text, but there is none", facts_.origin);
  }
  if (const auto eos = special_id("eos_token");
      eos && std::find(facts_.eos_ids.begin(), facts_.eos_ids.end(), *eos) == facts_.eos_ids.end())
    facts_.eos_ids.insert(facts_.eos_ids.begin(), *eos);
}

std::vector<int32_t> TiktokenTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::vector<int32_t> ids = rust_.encode(text, false);
  if (add_special_tokens && bos_) ids.insert(ids.begin(), *bos_);
  return ids;
}

Encoding TiktokenTokenizer::encode_with_spans(std::string_view text, bool add_special_tokens) const {
  Encoding encoding = rust_.encode_with_spans(text, false);
  if (add_special_tokens && bos_) {
    encoding.ids.insert(encoding.ids.begin(), *bos_);
    encoding.spans.insert(encoding.spans.begin(), CharacterSpan{});
  }
  return encoding;
}

std::string TiktokenTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  return rust_.decode(ids, skip_special_tokens);
}

}  // namespace viaduct::text
