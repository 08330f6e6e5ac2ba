// The Hugging Face tokenizer files of a GGUF file, rebuilt from its tokenizer.ggml.* keys.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "viaduct/formats/gguf.h"

namespace viaduct::models {

/// Why the file's tokenizer is not rebuilt, and what to do; empty when it is, and when the file has none. A file
/// does not say how byte-level text is cut before merging; known are the ways of gpt-2, olmo, deepseek-v3 and
/// gpt-4o (tokenizer.ggml.pre), and those that transformers takes for the llama and qwen architectures.
std::string why_no_gguf_tokenizer(const formats::GgufFile& file);

/// (name, content) of tokenizer.json, tokenizer_config.json (with the chat template) and special_tokens_map.json;
/// empty when the file has no tokenizer. Text is split and merged as transformers does it for the same file
/// (gguf_file=...): byte-level BPE ("gpt2") and sentencepiece's BPE ("llama"). For llama and qwen models
/// transformers looks at the architecture and not at tokenizer.ggml.pre; so do we. Unlike transformers, which takes
/// the bos token for eos and never adds a bos, the roles of bos, eos and pad and whether they are added are the
/// file's; and user-defined tokens of sentencepiece are found before anything else. UserError naming file and key
/// for a tokenizer of another kind and for tokens, merges or ids that do not fit together.
std::vector<std::pair<std::string, std::string>> gguf_tokenizer_files(const formats::GgufFile& file);

}  // namespace viaduct::models
