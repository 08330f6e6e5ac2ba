// The small files of a Hugging Face folder that say how its tokenizer is used.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "viaduct/text/tokenizer.h"
#include "viaduct/text/tokenizer_class.h"

namespace viaduct::text {

/// tokenizer_config.json and what belongs to it.
struct HfFolder {
  Path folder;
  Json config;              // tokenizer_config.json; an empty object when there is none
  Json special_tokens_map;  // special_tokens_map.json, likewise
  Json added_tokens;        // added_tokens.json (text to id), likewise
  TokenizerClass tokenizer_class;
  std::vector<int32_t> eos_ids;                                     // of generation_config.json
  std::vector<std::pair<std::string, std::string>> chat_templates;  // name, source
};

/// Reads them. UserError naming the file and what is wrong in it.
HfFolder read_hf_folder(const Path& folder);

/// A special token that is added: its text, and its fields in tokenizer.json's form.
struct SpecialToken {
  std::string role;  // empty: an extra one without a role
  std::string text;
  Json added;
};

/// The special tokens in transformers' order: roles, the model's own, extra ones.
std::vector<SpecialToken> special_tokens(const HfFolder& folder);

/// Facts of the folder's tokenizer, read from `file`.
TokenizerFacts facts_of(const HfFolder& folder, const Path& file, const std::vector<SpecialToken>& tokens);

/// A tokenizer.json, or text in its form, with what the folder says. `from_vocabulary`: the text was made of
/// vocabulary files, so that add_bos_token and add_eos_token count.
std::unique_ptr<Tokenizer> open_hf_tokenizer(const HfFolder& folder, const Path& file,
                                             std::string_view tokenizer_json, bool from_vocabulary);

/// The text of a tokenizer.json for GPT-2's two files, without what the class puts in.
std::string tokenizer_json_of_merges(std::string_view vocab_json, std::string_view merges,
                                     const std::string& origin);
/// Likewise for a WordPiece vocabulary: one token a line.
std::string tokenizer_json_of_words(std::string_view vocab_txt, std::string_view unk_token,
                                    const std::string& origin);

}  // namespace viaduct::text
