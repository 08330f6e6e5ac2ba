#include "viaduct/text/rust_library.h"

#include <cstring>

namespace viaduct::text {
namespace {

class Bytes {
 public:
  Bytes() = default;
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { viaduct_text_free_bytes(&bytes_); }
  ViaductTextBytes* out() { return &bytes_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data), bytes_.size}; }

  template <class T>
  std::vector<T> as() const {
    std::vector<T> values(bytes_.size / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes_.data, values.size() * sizeof(T));
    return values;
  }

 private:
  ViaductTextBytes bytes_{nullptr, 0};
};

const uint8_t* bytes_of(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

// A panic of a crate is caused by input as well: it is the file that has to change.
void check(int code, const Bytes& error, const std::string& origin) {
  if (code != 0) throw UserError(fmt::format("{}: {}", origin, error.text()));
}

}  // namespace

RustTokenizer RustTokenizer::open(std::string_view tokenizer_json, const Json& settings, std::string origin) {
  Bytes error;
  ViaductTextTokenizer* tokenizer = nullptr;
  const std::string dumped = settings.dump();
  check(viaduct_text_open_tokenizer(bytes_of(tokenizer_json), tokenizer_json.size(), bytes_of(dumped),
                                    dumped.size(), &tokenizer, error.out()),
        error, origin);
  return {tokenizer, std::move(origin)};
}

RustTokenizer RustTokenizer::open_tiktoken(std::string_view ranks, const Json& settings, std::string origin) {
  Bytes error;
  ViaductTextTokenizer* tokenizer = nullptr;
  const std::string dumped = settings.dump();
  check(viaduct_text_open_tiktoken(bytes_of(ranks), ranks.size(), bytes_of(dumped), dumped.size(), &tokenizer,
                                   error.out()),
        error, origin);
  return {tokenizer, std::move(origin)};
}

Json RustTokenizer::info() const {
  Bytes json, error;
  check(viaduct_text_tokenizer_info(tokenizer_.get(), json.out(), error.out()), error, origin_);
  return Json::parse(json.text(), origin_);
}

std::vector<int32_t> RustTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  Bytes ids, error;
  check(viaduct_text_encode(tokenizer_.get(), bytes_of(text), text.size(), add_special_tokens, ids.out(), nullptr,
                            error.out()),
        error, origin_);
  return ids.as<int32_t>();
}

Encoding RustTokenizer::encode_with_spans(std::string_view text, bool add_special_tokens) const {
  Bytes ids, spans, error;
  check(viaduct_text_encode(tokenizer_.get(), bytes_of(text), text.size(), add_special_tokens, ids.out(),
                            spans.out(), error.out()),
        error, origin_);
  return {ids.as<int32_t>(), spans.as<CharacterSpan>()};
}

std::string RustTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  Bytes text, error;
  check(viaduct_text_decode(tokenizer_.get(), reinterpret_cast<const uint32_t*>(ids.data()), ids.size(),
                            skip_special_tokens, text.out(), error.out()),
        error, origin_);
  return std::string(text.text());
}

std::optional<int32_t> RustTokenizer::token_to_id(std::string_view token) const {
  const int64_t id = viaduct_text_token_to_id(tokenizer_.get(), bytes_of(token), token.size());
  if (id < 0 || id > INT32_MAX) return std::nullopt;
  return static_cast<int32_t>(id);
}

std::optional<std::string> RustTokenizer::id_to_token(int32_t id) const {
  Bytes token;
  if (id < 0 || viaduct_text_id_to_token(tokenizer_.get(), static_cast<uint32_t>(id), token.out()) != 0)
    return std::nullopt;
  return std::string(token.text());
}

RustTemplate RustTemplate::open(std::string_view source, std::string origin) {
  Bytes error;
  ViaductTextTemplate* compiled = nullptr;
  check(viaduct_text_open_template(bytes_of(source), source.size(), &compiled, error.out()), error, origin);
  return {compiled, std::move(origin)};
}

Rendered RustTemplate::render(const Json& variables, int64_t now) const {
  Bytes text, spans, error;
  const std::string dumped = variables.dump();
  check(viaduct_text_render(template_.get(), bytes_of(dumped), dumped.size(), now, text.out(), spans.out(),
                            error.out()),
        error, origin_);
  return {std::string(text.text()), spans.as<CharacterSpan>()};
}

}  // namespace viaduct::text
