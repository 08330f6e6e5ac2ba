// Vocabularies in tiktoken's forms as tokenizers.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

/// A token's bytes and its rank, which is its id.
using TokenRank = std::pair<std::string, uint32_t>;

/// The regular expression that cuts text before bytes are merged: Megatron's tiktoken_pattern v1 and v2, Llama 3's
/// and Kimi's (transformers, tokenization_kimi).
inline constexpr std::string_view kTiktokenPatternV1 =
    R"([^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
/// Megatron's v2.
inline constexpr std::string_view kTiktokenPatternV2 =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?)"
    R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
/// Llama 3's.
inline constexpr std::string_view kTiktokenPatternLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
/// Kimi's.
inline constexpr std::string_view kTiktokenPatternKimi =
    R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
    R"([\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
    R"(\s+(?!\S)|\s+)";

/// True when a file's content is lines of base64 and a rank, as in tiktoken's own files.
bool is_tiktoken_file(std::string_view content);
/// The tokens of such a file. UserError "<origin>: line <n>: ..." for a line that is none.
std::vector<TokenRank> parse_tiktoken_file(std::string_view content, const std::string& origin);
/// The tokens of Megatron's JSON form (a list of {rank, token_bytes, token_str}), the first `limit` of them, their
/// ranks moved up by `first_rank`.
std::vector<TokenRank> parse_tiktoken_json(std::string_view content, size_t limit, uint32_t first_rank,
                                           const std::string& origin);

/// A tokenizer of tiktoken's kind.
class TiktokenTokenizer : public Tokenizer {
 public:
  /// `special`: texts and ids that stand for themselves wherever they are written. `add_bos`: encode puts bos in
  /// front.
  TiktokenTokenizer(std::span<const TokenRank> ranks, std::string_view pattern,
                    std::span<const std::pair<std::string, int32_t>> special, bool add_bos, TokenizerFacts facts);

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  Encoding encode_with_spans(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  std::optional<int32_t> token_to_id(std::string_view token) const override { return rust_.token_to_id(token); }
  std::optional<std::string> id_to_token(int32_t id) const override { return rust_.id_to_token(id); }

 private:
  RustTokenizer rust_;
  int64_t vocab_size_ = 0;
  std::optional<int32_t> bos_;
};

}  // namespace viaduct::text
