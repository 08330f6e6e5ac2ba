#include "viaduct/text/hf_tokenizer.h"

#include <algorithm>
#include <array>

namespace viaduct::text {
namespace {

std::string replace_all(const std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != std::string::npos; at = found + from.size()) {
    out.append(text, at, found - at);
    out += to;
  }
  return out.append(text, at);
}

}  // namespace

std::string clean_up_tokenization(std::string text) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kReplacements = {{{" .", "."},
                                                                                            {" ?", "?"},
                                                                                            {" !", "!"},
                                                                                            {" ,", ","},
                                                                                            {" ' ", "'"},
                                                                                            {" n't", "n't"},
                                                                                            {" 'm", "'m"},
                                                                                            {" 's", "'s"},
                                                                                            {" 've", "'ve"},
                                                                                            {" 're", "'re"}}};
  for (const auto& [from, to] : kReplacements) text = replace_all(text, from, to);
  return text;
}

HfTokenizer::HfTokenizer(std::string_view tokenizer_json, const Json& settings, bool clean_up_spaces,
                         TokenizerFacts facts)
    : Tokenizer(std::move(facts)), rust_(RustTokenizer::open(tokenizer_json, settings, facts_.origin)) {
  const Json info = rust_.info();
  vocab_size_ = info.at("vocab_size").as_int();
  byte_fallback_ = info.at("byte_fallback").as_bool();
  clean_up_spaces_ = clean_up_spaces && info.at("model").as_string() != "BPE";
  if (const std::optional<int32_t> eos = special_id("eos_token")) add_eos_ids(std::array{*eos});
}

void HfTokenizer::add_eos_ids(std::span<const int32_t> ids) {
  for (const int32_t id : ids)
    if (std::find(facts_.eos_ids.begin(), facts_.eos_ids.end(), id) == facts_.eos_ids.end())
      facts_.eos_ids.push_back(id);
}

std::vector<int32_t> HfTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return rust_.encode(text, add_special_tokens);
}

Encoding HfTokenizer::encode_with_spans(std::string_view text, bool add_special_tokens) const {
  return rust_.encode_with_spans(text, add_special_tokens);
}

std::string HfTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string text = rust_.decode(ids, skip_special_tokens);
  return clean_up_spaces_ ? clean_up_tokenization(std::move(text)) : text;
}

bool HfTokenizer::is_byte(int32_t id) const {
  if (!byte_fallback_) return false;
  const std::optional<std::string> token = rust_.id_to_token(id);
  return token && token->size() == 6 && token->starts_with("<0x") && token->back() == '>';
}

}  // namespace viaduct::text
