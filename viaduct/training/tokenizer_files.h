// The files of a run's tokenizer, which its checkpoints carry along.
#pragma once

#include <string>
#include <vector>

#include "viaduct/config/sections.h"

namespace viaduct::training {

/// The section's chat_template, or the text of the file at its chat_template_path. UserError where it has both.
config::OptString chat_template_of(const config::TokenizerConfig& config);

/// A file below an iteration's tokenizer/.
struct TokenizerFile {
  std::string name;
  std::string content;
};

/// What Megatron Bridge's save_tokenizer_assets writes: of a Hugging Face folder its tokenizer's files, with the
/// section's chat template and special_tokens in them; of the others vocab.txt, vocab.json and merges.txt,
/// tokenizer.model or tokenizer.json. Nothing of a NullTokenizer, or where no tokenizer is named. UserError for
/// what cannot be read.
std::vector<TokenizerFile> tokenizer_files(const config::TokenizerConfig& config);

}  // namespace viaduct::training
