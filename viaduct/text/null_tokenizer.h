// Megatron's NullTokenizer: texts are numbers, for benchmarks without a vocabulary.
#pragma once

#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

/// Numbers separated by single spaces, and back.
class NullTokenizer : public Tokenizer {
 public:
  /// `eod_id` is vocab_size - 1 unless given. UserError unless vocab_size is positive.
  explicit NullTokenizer(int64_t vocab_size, std::optional<int32_t> eod_id = std::nullopt);

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  Encoding encode_with_spans(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  std::optional<std::string> id_to_token(int32_t id) const override { return std::to_string(id); }
  std::optional<int32_t> eod_id() const override { return eod_id_; }

 private:
  int64_t vocab_size_;
  int32_t eod_id_;
};

}  // namespace viaduct::text
