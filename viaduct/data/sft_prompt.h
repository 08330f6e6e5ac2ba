// Prompts and answers joined by a template such as "Q: {question} A: {answer}" (upstream's GPTSFTDataset).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/data/sft_example.h"

namespace viaduct::data {

/// Which end of a text is cut off when it is too long.
enum class TruncationMethod { kLeft, kRight };
/// "left" or "right"; UserError for another name.
TruncationMethod parse_truncation_method(std::string_view name);

/// How lines become examples; upstream's names and defaults.
struct PromptOptions {
  /// {key} stands for the line's text of that key, its outer spaces cut off. Ends with {label_key}. \n, \t, \" and
  /// Python's other escapes are replaced; other characters stay as they are (upstream spoils those beyond ASCII).
  std::string prompt_template = "{input} {output}";
  std::string label_key = "output";
  /// Keys, with commas between, whose texts are cut first when an example is too long; empty: none.
  std::string truncation_field = "input";
  TruncationMethod truncation_method = TruncationMethod::kRight;
  int64_t max_seq_length = 2048;  // ids of an example at most
  bool add_bos = false;
  bool add_sep = false;  // between prompt and answer
  bool add_eos = true;
  std::optional<int32_t> bos_id, sep_id, eos_id;
  int64_t virtual_tokens = 0;      // ids of the end of text in front, for prompts that are learned
  int64_t tokens_to_generate = 0;  // room that the answer is given at least
  bool label_may_lack = false;     // upstream's is_test: a line without its answer has an empty one
  /// Does "x y" give other ids than "x" and "y" one after the other? (is_space_sensitive)
  bool space_sensitive = false;
};

/// What upstream asks of a tokenizer before it cuts templates.
bool is_space_sensitive(const Tokenize& tokenize);

/// Lines by a template.
class PromptFormat : public SftFormat {
 public:
  /// UserError that names the option when the template, its keys or the ids do not fit each other.
  PromptFormat(PromptOptions options, Tokenize tokenize);
  SftExample apply(const Json& line, std::string_view place) const override;

 private:
  // A stretch of the template: a text, or a key with the spaces in front of it.
  struct Part {
    std::string text;
    std::string key;
    bool is_truncated = false;
  };
  void split_template();
  void mark_truncated();
  int64_t added_ids() const;
  void truncate(std::vector<std::vector<int32_t>>& parts) const;
  void cut(std::vector<int32_t>& ids, size_t length) const;

  PromptOptions options_;
  Tokenize tokenize_;
  std::vector<Part> parts_;  // the last one is the label
  int64_t truncation_fields_ = 0;
};

}  // namespace viaduct::data
