#include "viaduct/text/null_tokenizer.h"

#include <charconv>

#include "viaduct/core/error.h"

namespace viaduct::text {
namespace {

std::optional<int32_t> number(std::string_view text) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

}  // namespace

NullTokenizer::NullTokenizer(int64_t vocab_size, std::optional<int32_t> eod_id)
    : Tokenizer({.origin = "NullTokenizer"}), vocab_size_(vocab_size) {
  VIADUCT_USER_CHECK(vocab_size > 0 && vocab_size <= INT32_MAX,
                     "NullTokenizer: vocab_size is {}, it must be positive: set tokenizer.vocab_size", vocab_size);
  eod_id_ = eod_id.value_or(static_cast<int32_t>(vocab_size - 1));
  facts_.eos_ids = {eod_id_};
}

std::vector<int32_t> NullTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return encode_with_spans(text, add_special_tokens).ids;
}

Encoding NullTokenizer::encode_with_spans(std::string_view text, bool) const {
  Encoding out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::optional<int32_t> id = number(text.substr(begin, end - begin));
    VIADUCT_USER_CHECK(id, "NullTokenizer: '{}' is no number: its texts are numbers separated by single spaces",
                       text.substr(begin, end - begin));
    out.ids.push_back(*id);
    out.spans.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    begin = end + 1;
  }
  return out;
}

std::string NullTokenizer::decode(std::span<const int32_t> ids, bool) const {
  std::string text;
  for (const int32_t id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

std::optional<int32_t> NullTokenizer::token_to_id(std::string_view token) const { return number(token); }

}  // namespace viaduct::text
