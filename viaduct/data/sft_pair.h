// Pairs of a prompt and its completion, each tokenized for itself (upstream's
// PromptCompletionSFTPreprocessingConfig).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/data/sft_example.h"
#include "viaduct/data/sft_prompt.h"

namespace viaduct::data {

/// How pairs become examples; upstream's names and defaults.
struct PairOptions {
  std::string prompt_column = "prompt", completion_column = "completion";
  std::string prompt_template = "{prompt}";  // "{{" and "}}" stand for braces
  /// Between the rendered prompt and the completion, whose ids it begins.
  std::string separator;
  bool learn_prompt = false;      // loss_mode "full"
  bool strip_whitespace = true;   // spaces around both texts
  int64_t max_seq_length = 2048;  // ids of an example at most; of one that is longer the prompt is cut first
  TruncationMethod truncation_method = TruncationMethod::kRight;
  bool add_bos = false;
  bool add_sep = false;  // between prompt and completion
  bool add_eos = true;
  std::optional<int32_t> bos_id, sep_id, eos_id;
  std::vector<int32_t> never_learned;  // ids that count for no loss
  bool completion_may_lack = false;    // a line without its completion has an empty one
  bool space_sensitive = false;        // is_space_sensitive of the tokenizer
};

/// Lines with the two columns, or with "prompt" and "completion".
class PairFormat : public SftFormat {
 public:
  /// UserError that names the option when template, columns or ids do not fit each other.
  PairFormat(PairOptions options, Tokenize tokenize);
  /// UserError also for a conversation, which needs a chat template.
  SftExample apply(const Json& line, std::string_view place) const override;

 private:
  PairOptions options_;
  Tokenize tokenize_;
  std::vector<std::string> around_;  // the template's texts between which the prompt stands
};

}  // namespace viaduct::data
