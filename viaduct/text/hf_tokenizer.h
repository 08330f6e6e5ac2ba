// A tokenizer.json (or files turned into one) with the settings that transformers lays over it.
#pragma once

#include <vector>

#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

/// A tokenizer of Hugging Face's tokenizers crate.
class HfTokenizer : public Tokenizer {
 public:
  /// `settings`: text_abi.h, viaduct_text_open_tokenizer. `clean_up_spaces`: transformers'
  /// clean_up_tokenization_spaces, which changes decoded text unless the model is BPE. UserError naming
  /// facts.origin for a file that is broken.
  HfTokenizer(std::string_view tokenizer_json, const Json& settings, bool clean_up_spaces, TokenizerFacts facts);

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  Encoding encode_with_spans(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  std::optional<int32_t> token_to_id(std::string_view token) const override { return rust_.token_to_id(token); }
  std::optional<std::string> id_to_token(int32_t id) const override { return rust_.id_to_token(id); }
  bool is_byte(int32_t id) const override;
  bool decodes_only_whole() const override { return clean_up_spaces_; }

  /// Adds ids that end a generation, each once.
  void add_eos_ids(std::span<const int32_t> ids);

 private:
  RustTokenizer rust_;
  int64_t vocab_size_ = 0;
  bool byte_fallback_ = false;
  bool clean_up_spaces_ = false;
};

/// Without the spaces that WordPiece puts before punctuation and shortened words ("do n't ." becomes "don't.").
std::string clean_up_tokenization(std::string text);

}  // namespace viaduct::text
