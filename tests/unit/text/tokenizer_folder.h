// A folder with files that a test writes, and a small tokenizer.json.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "viaduct/core/file.h"

namespace viaduct::text {

class TokenizerFolder {
 public:
  TokenizerFolder() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() / (std::string("viaduct-text-") + info->test_suite_name() + "-" +
                                                      info->name() + "-" + std::to_string(getpid()));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TokenizerFolder() { std::filesystem::remove_all(path_); }
  TokenizerFolder(const TokenizerFolder&) = delete;
  TokenizerFolder& operator=(const TokenizerFolder&) = delete;

  void write(const std::string& name, const std::string& content) const {
    write_file_atomically(path_ / name, content);
  }
  const Path& path() const { return path_; }

 private:
  Path path_;
};

// Words a, b, ab over white space, with <s> and </s>.
inline const char* const kSmallTokenizer = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 4, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"}})";

}  // namespace viaduct::text
