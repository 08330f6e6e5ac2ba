// A sentencepiece .model file as a tokenizer.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "viaduct/text/sentencepiece_normalize.h"
#include "viaduct/text/sentencepiece_segment.h"
#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

/// What is laid over a sentencepiece model.
struct SentencePieceOptions {
  bool add_bos = false;  // encode puts bos in front of every text
  bool add_eos = false;
  /// Texts that are special tokens wherever they stand in a text; those that are no pieces get the ids behind the
  /// last piece, in this order.
  std::vector<std::string> special_tokens;
  /// Megatron's tokenizer_sentencepiece_legacy: every part between special tokens is encoded like a text of its own
  /// (with the dummy prefix, which is taken out again behind a special token when it is a piece), and decoded text
  /// has spaces around special tokens. False: only a part at the beginning of the text gets the dummy prefix.
  bool legacy = false;
};

/// Cuts text as sentencepiece does, for unigram, BPE, word and char models.
class SentencePieceTokenizer : public Tokenizer {
 public:
  /// `content`: the file. UserError naming facts.origin for a file that is broken.
  SentencePieceTokenizer(std::string_view content, SentencePieceOptions options, TokenizerFacts facts);

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  Encoding encode_with_spans(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(model_.pieces.size() + added_.size()); }
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  std::optional<std::string> id_to_token(int32_t id) const override;
  bool is_byte(int32_t id) const override;
  bool decodes_only_whole() const override { return options_.legacy; }

 private:
  struct Part {
    size_t begin, end;
    int32_t special;  // the id of the special token that this part is; -1: text
  };
  std::vector<Part> parts(std::string_view text) const;
  void encode_part(std::string_view text, size_t begin, size_t end, Encoding& out) const;
  std::string decode_pieces(std::span<const int32_t> ids, bool skip_special_tokens) const;
  std::string decode_piece(int32_t id, bool& at_begin) const;

  SentencePieceModel model_;
  SentencePieceOptions options_;
  SentencePieceSegmentation segmentation_;
  SentencePieceNormalization normalization_;
  std::vector<std::string> added_;                        // tokens behind the last piece
  std::unordered_map<std::string, int32_t> special_ids_;  // of options_.special_tokens
  std::unordered_map<int32_t, std::string> special_texts_;
  PieceTrie find_special_;
  std::vector<int32_t> byte_ids_;  // of the 256 byte pieces, when there are such
};

}  // namespace viaduct::text
