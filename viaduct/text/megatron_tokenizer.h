// Tokenizers by Megatron's names: the section `tokenizer` of a run's configuration.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

/// Upstream's options, under upstream's names (megatron/core/tokenizers/utils/build_tokenizer.py).
struct MegatronTokenizerOptions {
  /// HuggingFaceTokenizer, SentencePieceTokenizer, GPTSentencePieceTokenizer, Llama2Tokenizer, GPT2BPETokenizer,
  /// BertWordPieceLowerCase, BertWordPieceCase, TikTokenizer or NullTokenizer.
  std::string tokenizer_type;
  std::string tokenizer_model;         // folder or file; empty: not given
  std::string vocab_file, merge_file;  // GPT-2's and BERT's files
  std::optional<int64_t> vocab_size;   // NullTokenizer's, TikTokenizer's
  std::vector<std::string> special_tokens;
  std::optional<std::string> chat_template;  // instead of the tokenizer's own
  std::string tiktoken_pattern = "v2";       // v1 or v2
  int64_t tiktoken_num_special_tokens = 1000;
  bool tokenizer_sentencepiece_legacy = false;
  std::optional<int32_t> null_tokenizer_eod_id;
};

/// The tokenizer that Megatron Core 0.19 builds for these options. UserError for a type that is not known (with the
/// known ones), one that is not supported here (MultimodalTokenizer), and for an option that is missing, naming it.
std::unique_ptr<Tokenizer> open_megatron_tokenizer(const MegatronTokenizerOptions& options);

}  // namespace viaduct::text
