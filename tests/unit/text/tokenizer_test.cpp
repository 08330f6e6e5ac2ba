#include <gmock/gmock.h>

#include "tests/unit/text/tokenizer_folder.h"
#include "viaduct/text/hf_tokenizer.h"
#include "viaduct/text/null_tokenizer.h"
#include "viaduct/text/stream_decoder.h"
#include "viaduct/text/tiktoken_tokenizer.h"
#include "viaduct/text/tokenizer_class.h"

namespace viaduct::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Tokenizer, reads_a_folder) {
  TokenizerFolder folder;
  folder.write("tokenizer.json", kSmallTokenizer);
  folder.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
  folder.write("generation_config.json", R"({"eos_token_id": [4, 1]})");
  const auto tokenizer = open_tokenizer(folder.path());
  EXPECT_THAT(tokenizer->encode("a b</s>"), ElementsAre(0, 1, 4));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 4}, true), "a");
  EXPECT_EQ(tokenizer->vocab_size(), 5);
  EXPECT_EQ(tokenizer->special_id("bos_token"), 3);
  EXPECT_EQ(tokenizer->special_id("pad_token"), std::nullopt);
  EXPECT_THAT(tokenizer->facts().eos_ids, ElementsAre(4, 1));
  const Encoding encoding = tokenizer->encode_with_spans("a  b");
  EXPECT_THAT(encoding.spans, ElementsAre(CharacterSpan{0, 1}, CharacterSpan{3, 4}));
}

TEST(Tokenizer, a_folder_without_one_names_what_was_looked_for) {
  TokenizerFolder folder;
  try {
    open_tokenizer(folder.path());
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("tokenizer.json"));
    EXPECT_THAT(error.what(), HasSubstr(folder.path().string()));
  }
}

TEST(Tokenizer, refuses_text_that_is_not_utf8) {
  TokenizerFolder folder;
  folder.write("tokenizer.json", kSmallTokenizer);
  const auto tokenizer = open_tokenizer(folder.path());
  EXPECT_THROW(tokenizer->encode("a\xFF"), UserError);
  EXPECT_THROW(NullTokenizer(10).encode("1 x", false), UserError);
}

TEST(Tokenizer, class_by_model_type) {
  EXPECT_EQ(tokenizer_class_name("LlamaTokenizerFast", "deepseek_v3", ""), "TokenizersBackend");
  EXPECT_EQ(tokenizer_class_name("LlamaTokenizerFast", "llama", ""), "LlamaTokenizer");
  EXPECT_EQ(tokenizer_class_name("PreTrainedTokenizerFast", "qwen2", ""), "Qwen2Tokenizer");
  EXPECT_EQ(tokenizer_class_name("", "gemma3", ""), "GemmaTokenizer");
  EXPECT_EQ(tokenizer_class_name("", "", "GPT2Tokenizer"), "GPT2Tokenizer");
}

TEST(Tokenizer, cleans_up_as_transformers_does) {
  EXPECT_EQ(clean_up_tokenization("it ' s do n't . really ?"), "it's don't. really?");
}

std::vector<TokenRank> bytes() {
  std::vector<TokenRank> ranks;
  for (uint32_t i = 0; i < 256; ++i) ranks.emplace_back(std::string(1, static_cast<char>(i)), i);
  return ranks;
}

TEST(StreamDecoder, never_gives_half_characters) {
  const TiktokenTokenizer tokenizer(bytes(), kTiktokenPatternV2, {}, false, {.origin = "bytes"});
  StreamDecoder stream(tokenizer);
  const std::string text = "a\u00e9\U0001F642";
  std::vector<std::string> pieces;
  for (const char byte : text) pieces.push_back(stream.push(static_cast<uint8_t>(byte)));
  EXPECT_THAT(pieces, ElementsAre("a", "", "\u00e9", "", "", "", "\U0001F642"));
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
}

TEST(StreamDecoder, forgets_what_it_needs_no_more) {
  const TiktokenTokenizer tokenizer(bytes(), kTiktokenPatternV2, {}, false, {.origin = "bytes"});
  StreamDecoder stream(tokenizer);
  std::string text;
  for (int i = 0; i < 3000; ++i)
    for (const char byte : std::string("\U0001F642")) text += stream.push(static_cast<uint8_t>(byte));
  EXPECT_EQ(text.size(), 3000u * 4);
}

TEST(Tiktoken, long_and_short_pieces_merge_alike) {
  std::vector<TokenRank> ranks = bytes();
  for (const char* pair : {"aa", "ab", "aaa", "aab", "abab"})
    ranks.emplace_back(pair, static_cast<uint32_t>(ranks.size()));
  const TiktokenTokenizer tokenizer(ranks, R"(\S+|\s+)", {}, false, {.origin = "ranks"});
  std::string text;
  while (text.size() < 96) text += "aabab";
  const std::vector<int32_t> once = tokenizer.encode(text, false);
  std::string twice = text + "zz" + text;  // over 100 bytes: the other way of merging
  std::vector<int32_t> expected = once;
  expected.insert(expected.end(), {'z', 'z'});
  expected.insert(expected.end(), once.begin(), once.end());
  EXPECT_EQ(tokenizer.encode(twice, false), expected);
}

}  // namespace
}  // namespace viaduct::text
