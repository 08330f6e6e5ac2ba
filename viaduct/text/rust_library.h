// The Rust part of the layer (text_abi.h) as C++ objects: what it returns is freed, what goes wrong is thrown.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/text/text_abi.h"

namespace viaduct::text {

/// Where something stands in a text: from `begin` up to before `end`, counted in characters (Unicode code points).
struct CharacterSpan {
  uint32_t begin = 0;
  uint32_t end = 0;
  friend bool operator==(const CharacterSpan&, const CharacterSpan&) = default;
};

/// Ids with the places of their tokens in the text.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<CharacterSpan> spans;  // one an id; (0, 0) for tokens that are no part of the text
};

/// A tokenizer of the Rust library. Errors are UserErrors that begin with `origin`, the file it came from.
class RustTokenizer {
 public:
  /// From the text of a tokenizer.json and settings (text_abi.h: viaduct_text_open_tokenizer).
  static RustTokenizer open(std::string_view tokenizer_json, const Json& settings, std::string origin);
  /// From tiktoken's ranks (rank, length, bytes) and settings (text_abi.h: viaduct_text_open_tiktoken).
  static RustTokenizer open_tiktoken(std::string_view ranks, const Json& settings, std::string origin);

  /// What viaduct_text_tokenizer_info says.
  Json info() const;
  /// Ids of a text, which must be UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;
  /// The same ids with their places.
  Encoding encode_with_spans(std::string_view text, bool add_special_tokens) const;
  /// The text of ids; ids that are no tokens are skipped.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;
  /// The id of a token, and the token of an id, as the vocabulary writes it.
  std::optional<int32_t> token_to_id(std::string_view token) const;
  /// See token_to_id.
  std::optional<std::string> id_to_token(int32_t id) const;

 private:
  struct Free {
    void operator()(ViaductTextTokenizer* tokenizer) const { viaduct_text_free_tokenizer(tokenizer); }
  };
  RustTokenizer(ViaductTextTokenizer* tokenizer, std::string origin)
      : tokenizer_(tokenizer), origin_(std::move(origin)) {}
  std::unique_ptr<ViaductTextTokenizer, Free> tokenizer_;
  std::string origin_;
};

/// A text that a template rendered.
struct Rendered {
  std::string text;
  std::vector<CharacterSpan> generated;  // what {% generation %} blocks wrote
};

/// A chat template, compiled. Errors are UserErrors that begin with `origin`.
class RustTemplate {
 public:
  /// Compiles; UserError with the line for a template that is none.
  static RustTemplate open(std::string_view source, std::string origin);
  /// Renders with the members of `variables`; `now` (seconds since 1970) is what strftime_now shows. UserError with
  /// the line when the template refuses the input or would run or grow without end.
  Rendered render(const Json& variables, int64_t now) const;

 private:
  struct Free {
    void operator()(ViaductTextTemplate* compiled) const { viaduct_text_free_template(compiled); }
  };
  RustTemplate(ViaductTextTemplate* compiled, std::string origin)
      : template_(compiled), origin_(std::move(origin)) {}
  std::unique_ptr<ViaductTextTemplate, Free> template_;
  std::string origin_;
};

}  // namespace viaduct::text
