// transformers' tokenizer classes: which one opens a folder, and what it puts in the place of what the files say.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/json.h"

namespace viaduct::text {

/// What a class of transformers 5.12 does besides reading files.
struct TokenizerClass {
  std::string name;
  /// Special tokens that are taken when the config does not name the role; nullopt: none.
  std::vector<std::pair<std::string, std::optional<std::string>>> default_special_tokens;
  /// What is put in the place of the file's: "model" fields, "normalizer", "pre_tokenizer", "decoder". Null: the
  /// files' own stay.
  Json replaced;
  /// The model that the class builds from vocabulary files: "BPE", "WordPiece"; empty: it builds none.
  std::string model;
  /// All special tokens are added once more, after the others (Qwen2Tokenizer).
  bool adds_special_tokens_again = false;
  /// [CLS] text [SEP] instead of the file's post-processor (BertTokenizer).
  bool surrounds_with_cls_and_sep = false;
};

/// The name of the class that AutoTokenizer takes: from tokenizer_config.json's tokenizer_class, config.json's
/// model_type and tokenizer_class (each may be empty). "TokenizersBackend" leaves tokenizer.json as it is.
std::string tokenizer_class_name(std::string_view config_class, std::string_view model_type,
                                 std::string_view model_config_class);

/// The class of that name with the options of tokenizer_config.json (legacy, add_prefix_space, do_lower_case ...);
/// a class that is not known here leaves the files as they are.
TokenizerClass tokenizer_class(const std::string& name, const Json& config);

}  // namespace viaduct::text
