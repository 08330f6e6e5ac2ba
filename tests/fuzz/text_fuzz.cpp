// sentencepiece models and tiktoken's files: the parsers of the text layer that are C++.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "viaduct/core/error.h"
#include "viaduct/text/sentencepiece_tokenizer.h"
#include "viaduct/text/tiktoken_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viaduct;
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  try {
    const text::SentencePieceTokenizer tokenizer(content, {}, {.origin = "fuzz"});
    tokenizer.decode(tokenizer.encode("ab \u00e9\u2581  12 \U0001F642", true), false);
  } catch (const UserError&) {
  }
  try {
    if (text::is_tiktoken_file(content)) text::parse_tiktoken_file(content, "fuzz");
  } catch (const UserError&) {
  }
  try {
    text::parse_tiktoken_json(content, 1000, 10, "fuzz");
  } catch (const UserError&) {
  }
  return 0;
}
