#include "viaduct/text/stream_decoder.h"

#include <array>
#include <string_view>

namespace viaduct::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
// So many ids of context are more than any decoder looks back; more would only be decoded again and again.
constexpr size_t kContext = 8;

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

std::string StreamDecoder::decode() const { return tokenizer_.decode(window_, skip_special_tokens_); }

std::string StreamDecoder::push(int32_t id) {
  window_.push_back(id);
  if (tokenizer_.decodes_only_whole()) return "";
  // A special token that is skipped does not end a run of bytes.
  in_bytes_ =
      tokenizer_.is_byte(id) || (in_bytes_ && tokenizer_.decode(std::array{id}, skip_special_tokens_).empty());
  if (in_bytes_) return "";
  std::string text = decode();
  // The end of the text is U+FFFD while a character is not complete.
  std::string_view settled = text;
  if (settled.ends_with(kReplacement)) settled.remove_suffix(kReplacement.size());
  if (settled.size() < written_.size()) return "";
  std::string piece(settled.substr(written_.size()));
  const bool complete = settled.size() == text.size();
  written_.assign(settled);
  // Context must have a text of its own, or a decoder that strips the beginning of a text would strip here; and it
  // must not begin inside a character. One of a few lengths will do.
  for (size_t size = kContext; complete && window_.size() > 2 * kContext && size < kContext + 4; ++size) {
    std::vector<int32_t> context(window_.end() - static_cast<std::ptrdiff_t>(size), window_.end());
    std::string context_text = tokenizer_.decode(context, skip_special_tokens_);
    const bool inside = tokenizer_.is_byte(context.front()) || context_text.starts_with(kReplacement);
    if (context_text.empty() || inside || !text.ends_with(context_text)) continue;
    window_ = std::move(context);
    written_ = std::move(context_text);
  }
  return piece;
}

std::string StreamDecoder::finish() {
  const std::string text = decode();
  std::string piece = text.size() > written_.size() ? text.substr(written_.size()) : "";
  window_.clear();
  written_.clear();
  return piece;
}

}  // namespace viaduct::text
