// Broken and hostile files end in an error that names them; nothing crashes or runs away.
#include <gmock/gmock.h>

#include "tests/unit/text/tokenizer_folder.h"
#include "viaduct/text/sentencepiece_tokenizer.h"
#include "viaduct/text/tiktoken_tokenizer.h"

namespace viaduct::text {
namespace {

using testing::HasSubstr;

// Opens the folder with this file, and encodes; the error, or "" when there is none.
std::string error_of(const std::string& file, const std::string& content, const std::string& text = "a b",
                     const std::string& config = "{}") {
  TokenizerFolder folder;
  folder.write("tokenizer_config.json", config);
  folder.write(file, content);
  try {
    const auto tokenizer = open_tokenizer(folder.path());
    tokenizer->decode(tokenizer->encode(text), false);
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr(folder.path().string()));
    return error.what();
  }
  return "";
}

TEST(HostileFiles, tokenizer_json) {
  const std::string whole = kSmallTokenizer;
  for (size_t size = 0; size < whole.size(); size += 7)
    EXPECT_NE(error_of("tokenizer.json", whole.substr(0, size)), "");
  EXPECT_NE(error_of("tokenizer.json", "[]"), "");
  EXPECT_NE(error_of("tokenizer.json", std::string(100000, '[')), "");
  EXPECT_NE(error_of("tokenizer.json", "\xFF\xFE"), "");
  // Ids at the end of the range, merges that lead nowhere.
  const std::string head = R"({"version": "1.0", "added_tokens": [], "model": )";
  EXPECT_NE(error_of("tokenizer.json", head + R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})"), "");
  error_of("tokenizer.json", head + R"({"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}})");
  error_of("tokenizer.json", head + R"({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}})");
  EXPECT_NE(error_of("tokenizer.json", head + R"({"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "[UNK]"}})"),
            "");
}

TEST(HostileFiles, a_pattern_that_never_ends) {
  const std::string json =
      R"({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, )"
      R"("behavior": "Isolated", "invert": false}, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})";
  error_of("tokenizer.json", json, std::string(200, 'a') + "b");
}

TEST(HostileFiles, configs) {
  for (const char* config :
       {"[]", "{", R"({"added_tokens_decoder": []})", R"({"added_tokens_decoder": {"x": {"content": "a"}}})",
        R"({"chat_template": 3})", R"({"chat_template": [{"name": "x"}]})", R"({"fix_mistral_regex": true})"})
    EXPECT_NE(error_of("tokenizer.json", kSmallTokenizer, "a", config), "") << config;
}

TEST(HostileFiles, sentencepiece) {
  // The unknown token, then "a"; cut, and with every byte changed.
  const std::string model(
      "\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02\x0a\x08\x0a\x01"
      "a\x15\x00\x00\x80\xbf",
      26);
  EXPECT_EQ(error_of("tokenizer.model", model), "");
  for (size_t size = 0; size < model.size(); ++size) {
    const bool is_whole = size == 16;  // the first piece alone is a model
    EXPECT_EQ(error_of("tokenizer.model", model.substr(0, size)).empty(), is_whole) << size;
  }
  for (size_t i = 0; i < model.size(); ++i)
    for (const int byte : {0, 1, 0x7F, 0x80, 0xFF}) {
      std::string changed = model;
      changed[i] = static_cast<char>(byte);
      error_of("tokenizer.model", changed);
    }
}

TEST(HostileFiles, tiktoken) {
  EXPECT_NE(error_of("tokenizer.model", "YQ== 0\nYg==\n"), "");
  EXPECT_NE(error_of("tokenizer.model", "YQ== 0\nYg== 99999999999\n"), "");
  EXPECT_NE(error_of("tokenizer.model", "YQ== 0\nYQ== 1\n"), "");
  EXPECT_NE(error_of("tokenizer.model", "YQ== 0\n"), "");  // bytes without tokens
  EXPECT_THROW(parse_tiktoken_json("[{}]", 5, 0, "file"), UserError);
  EXPECT_THROW(parse_tiktoken_json(R"([{"rank": 1, "token_bytes": "AA=="}])", 5, 0, "file"), UserError);
}

TEST(HostileFiles, vocabularies) {
  EXPECT_NE(error_of("vocab.txt", ""), "");
  EXPECT_NE(error_of("vocab.txt", "a\n\xFF\n"), "");
}

}  // namespace
}  // namespace viaduct::text
