// Tokenizer: text to ids and back, whatever the files are that say how; and what opens the tokenizer of a folder.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/text/rust_library.h"

namespace viaduct::text {

/// What a tokenizer's files say besides how text is cut.
struct TokenizerFacts {
  std::string origin;  // the file or folder it came from, for messages
  /// (name, text) of the special tokens that have a role, in transformers' order: "bos_token", "eos_token",
  /// "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", then the model's own ("image_token"). Only
  /// those that are set.
  std::vector<std::pair<std::string, std::string>> special_tokens;
  /// Ids that end a generation: the eos token, then those of generation_config.json.
  std::vector<int32_t> eos_ids;
  /// (name, source) of the chat templates; a folder's only one is "default".
  std::vector<std::pair<std::string, std::string>> chat_templates;
};

/// Text to ids and back. Objects do not change once opened, so several threads may use one. A text that is not
/// UTF-8 is a UserError.
class Tokenizer {
 public:
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  virtual ~Tokenizer() = default;

  /// Ids of a text. With `add_special_tokens` also those that the tokenizer puts around every text (bos, eos), if
  /// any. Special tokens that are written in the text become their ids.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const = 0;
  /// The same ids, with the part of the text that each stands for.
  virtual Encoding encode_with_spans(std::string_view text, bool add_special_tokens = true) const = 0;
  /// The text of ids, as the tokenizer's own program prints it.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const = 0;

  /// Number of tokens, added ones included. (A model's embedding may be larger: padded.)
  virtual int64_t vocab_size() const = 0;
  /// The id of a token, written as in the vocabulary.
  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  /// The token of an id, written as in the vocabulary; for tiktoken its bytes.
  virtual std::optional<std::string> id_to_token(int32_t id) const = 0;

  /// The text of a special token by its role ("bos_token"), when there is one.
  std::optional<std::string> special_token(std::string_view role) const;
  /// The id of a special token by its role ("eos_token"), when there is one.
  virtual std::optional<int32_t> special_id(std::string_view role) const;
  /// Megatron's end of document: the id that training data puts between documents.
  virtual std::optional<int32_t> eod_id() const { return special_id("eos_token"); }

  /// True for a token that stands for one byte and is joined with its neighbours when decoded (<0x0A>): what a run
  /// of them means is known only when it ends.
  virtual bool is_byte(int32_t) const { return false; }
  /// True when decoding changes what it wrote before (spaces before a full stop): only a whole text can be decoded.
  virtual bool decodes_only_whole() const { return false; }

  /// What its files say of it.
  const TokenizerFacts& facts() const { return facts_; }

 protected:
  explicit Tokenizer(TokenizerFacts facts) : facts_(std::move(facts)) {}
  TokenizerFacts facts_;
};

/// The tokenizer of a Hugging Face folder, as transformers 5.12 opens it: tokenizer.json with
/// tokenizer_config.json, special_tokens_map.json and added_tokens.json; else tokenizer.model (sentencepiece, or
/// tiktoken's lines of base64), else vocab.json and merges.txt (GPT-2), else vocab.txt (WordPiece). config.json and
/// generation_config.json are looked at when they are there. UserError naming the folder and the files looked for
/// when there is none of them, and naming the file for one that is broken.
std::unique_ptr<Tokenizer> open_tokenizer(const Path& folder);

}  // namespace viaduct::text
