#include "viaduct/training/tokenizer_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/unit/formats/scratch_folder.h"
#include "viaduct/core/json.h"

namespace viaduct::training {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class TokenizerFiles : public testing::Test {
 protected:
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> result;
    for (const TokenizerFile& file : tokenizer_files(config)) result[file.name] = file.content;
    return result;
  }

  formats::ScratchFolder folder;
  config::TokenizerConfig config;
};

using Files = std::map<std::string, std::string>;

TEST_F(TokenizerFiles, OfVocabularyFilesHaveUpstreamsNames) {
  config.tokenizer_model = folder.file("mine.bin", "model").string();
  config.vocab_file = folder.file("words", "vocabulary").string();
  config.merge_file = folder.file("pairs", "merges").string();
  const Files model = {{"tokenizer.model", "model"}}, words = {{"vocab.txt", "vocabulary"}};
  const std::map<std::string, Files> expected = {
      {"SentencePieceTokenizer", model},
      {"GPTSentencePieceTokenizer", model},
      {"Llama2Tokenizer", model},
      {"BertWordPieceLowerCase", words},
      {"BertWordPieceCase", words},
      {"GPT2BPETokenizer", {{"vocab.json", "vocabulary"}, {"merges.txt", "merges"}}},
      {"TikTokenizer", {{"tokenizer.json", "model"}}},
      {"NullTokenizer", {}}};
  for (const auto& [type, of_type] : expected) {
    config.tokenizer_type = type;
    EXPECT_EQ(files(), of_type) << type;
  }
  config.tokenizer_type = std::nullopt;
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(TokenizerFiles, OfAFolderAreTheTokenizersAlone) {
  const Files own = {{"tokenizer.json", "{}"},
                     {"tokenizer_config.json", "{\"a\": 1}"},
                     {"special_tokens_map.json", "{}"},
                     {"chat_template.jinja", "old"},
                     {"additional_chat_templates/rag.jinja", "rag"},
                     {"vocab.json", "{}"},
                     {"merges.txt", ""},
                     {"spiece.model", "model"}};
  for (const auto& [name, content] : own) folder.file(name, content);
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors", "README.md"})
    folder.file(name, "{}");
  config.tokenizer_type = "HuggingFaceTokenizer";
  config.tokenizer_model = folder.path().string();
  EXPECT_EQ(files(), own);
}

TEST_F(TokenizerFiles, HaveWhatTheRunChanges) {
  folder.file("tokenizer.json", "{}");
  folder.file("tokenizer_config.json", R"({"additional_special_tokens": ["<x>"], "a": 1})");
  config.tokenizer_type = "HuggingFaceTokenizer";
  config.tokenizer_model = folder.path().string();
  config.special_tokens = config::Strings{"<y>", "<z>"};
  config.chat_template_path = folder.file("mine/template", "new").string();
  Files expected = {{"tokenizer.json", "{}"}, {"chat_template.jinja", "new"}};
  Files found = files();
  EXPECT_EQ(Json::parse(found.at("tokenizer_config.json"), "").dump(),
            R"({"a": 1, "extra_special_tokens": ["<y>", "<z>"]})");
  found.erase("tokenizer_config.json");
  EXPECT_EQ(found, expected);
  config.chat_template = "newer";
  EXPECT_THAT(formats::error_of([&] { files(); }), HasSubstr("chat_template_path"));
  config.chat_template_path = std::nullopt;
  EXPECT_EQ(files().at("chat_template.jinja"), "newer");
}

}  // namespace
}  // namespace viaduct::training
