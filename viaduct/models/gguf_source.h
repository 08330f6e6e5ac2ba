// A GGUF file, seen as the Hugging Face folder that it was made from: config.json, tensors under their Hugging Face
// names, tokenizer files. Which architectures: models/gguf_architecture.h (Mistral's models carry Llama's name).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/formats/gguf.h"
#include "viaduct/layout/expr.h"

namespace viaduct::models {

/// True for Hugging Face classes whose models are read from GGUF ("LlamaForCausalLM").
bool is_read_from_gguf(std::string_view hf_class);

/// config.json as transformers derives it from the file's metadata, in the form that transformers 4 and 5 read. Its
/// torch_dtype is that of the file's matrices, float32 when they are quantised. Beyond transformers, the rope
/// factors of Llama 3.1 (tensor rope_freqs.weight) become rope_scaling. UserError naming file and key for a model
/// of another architecture, an absent or senseless key, and a feature that these model classes do not have.
Json gguf_to_hf_config(const formats::GgufFile& file);

/// The tensor of rope factors, which is no parameter.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";

/// Puts the rows (axis 0: heads * head_dim) of llama.cpp's q and k back into Hugging Face's order. Within a head
/// llama.cpp lets the two halves of the rotary pairs take turns (0, d/2, 1, d/2 + 1, ...); Hugging Face keeps them
/// apart.
layout::Expr undo_rotary_permutation(const layout::Expr& rows, int64_t heads);

/// The whole model.
struct GgufModel {
  Json config;
  /// Hugging Face tensor -> how it is made of the file's tensors. Values are not dequantised by it: the inputs keep
  /// their stored types.
  std::map<std::string, layout::Expr, std::less<>> tensors;
  /// Tensor of the file -> what is to be added to each of its numbers (Gemma's norms: -1).
  std::map<std::string, float, std::less<>> offsets;
  /// (tensor of the file, why it is not needed)
  std::vector<std::pair<std::string, std::string>> unused;
  /// (name, content) of the folder's other files: generation_config.json, tokenizer.json, tokenizer_config.json,
  /// special_tokens_map.json. No tokenizer files when the file has no tokenizer, or one that cannot be rebuilt.
  std::vector<std::pair<std::string, std::string>> side_files;
  /// What the user should know of the file.
  std::vector<std::string> notes;
};

/// Config, tensors and side files of the file. UserError, naming the file, for a tensor of an unknown name or form,
/// and for one that needs another that the file does not have.
GgufModel read_gguf_model(const formats::GgufFile& file);

}  // namespace viaduct::models
