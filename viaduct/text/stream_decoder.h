// Decoding while ids arrive one by one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

/// Turns ids into text as they come. What it returns, joined, is the tokenizer's decode of all ids; no piece ends
/// inside a character, and what a later token could still change is held back until it is settled.
class StreamDecoder {
 public:
  /// The tokenizer must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = false);
  /// The text that is certain now that this id follows; often empty.
  std::string push(int32_t id);
  /// The text that was held back; no id follows.
  std::string finish();

 private:
  std::string decode() const;

  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  std::vector<int32_t> window_;  // ids that the next text depends on
  std::string written_;          // the part of their text that was returned
  bool in_bytes_ = false;        // the last id that has a text is a byte
};

}  // namespace viaduct::text
