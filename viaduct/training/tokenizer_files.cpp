#include "viaduct/training/tokenizer_files.h"

#include <algorithm>

#include "viaduct/bridge/source_record.h"
#include "viaduct/core/error.h"
#include "viaduct/core/json.h"

namespace viaduct::training {

namespace {

constexpr uint64_t kLargestFile = 512u << 20;

// Takes the place of the file of this name, or comes to the others.
void put(std::vector<TokenizerFile>& files, const std::string& name, std::string content) {
  const auto there = std::ranges::find(files, name, &TokenizerFile::name);
  if (there != files.end())
    there->content = std::move(content);
  else
    files.push_back({name, std::move(content)});
}

// What the run changes of the folder's tokenizer is part of it: who opens the files gets the run's ids and texts.
std::vector<TokenizerFile> files_of_folder(const Path& folder, const config::TokenizerConfig& config) {
  std::vector<TokenizerFile> files;
  for (const bridge::SideFile& file : bridge::find_side_files(folder))
    if (bridge::is_tokenizer_file(file.name)) files.push_back({file.name, read_text_file(file.path, kLargestFile)});
  // Whoever opens the folder reads this one before any other.
  if (const auto chat_template = chat_template_of(config)) put(files, "chat_template.jinja", *chat_template);
  if (config.special_tokens && !config.special_tokens->empty()) {
    const std::string name = "tokenizer_config.json";
    const auto there = std::ranges::find(files, name, &TokenizerFile::name);
    Json json = there == files.end() ? Json::object() : Json::parse(there->content, (folder / name).string());
    json.set("extra_special_tokens",
             Json::array(std::vector<Json>(config.special_tokens->begin(), config.special_tokens->end())));
    json.erase("additional_special_tokens");
    put(files, name, json.dump(2) + "\n");
  }
  return files;
}

}  // namespace

config::OptString chat_template_of(const config::TokenizerConfig& config) {
  if (!config.chat_template_path) return config.chat_template;
  VIADUCT_USER_CHECK(
      !config.chat_template,
      "tokenizer.chat_template and tokenizer.chat_template_path are both set: take one back to null");
  return read_text_file(*config.chat_template_path, kLargestFile);
}

std::vector<TokenizerFile> tokenizer_files(const config::TokenizerConfig& config) {
  const std::string type = config.tokenizer_type.value_or("NullTokenizer");
  if (type == "HuggingFaceTokenizer") return files_of_folder(config.tokenizer_model.value_or(""), config);
  std::vector<TokenizerFile> files;
  const auto add = [&](const config::OptString& path, const char* name) {
    if (path) files.push_back({name, read_text_file(*path, kLargestFile)});
  };
  if (type.starts_with("BertWordPiece")) {
    add(config.vocab_file, "vocab.txt");
  } else if (type == "GPT2BPETokenizer") {
    add(config.vocab_file, "vocab.json");
    add(config.merge_file, "merges.txt");
  } else if (type == "TikTokenizer") {
    add(config.tokenizer_model, "tokenizer.json");
  } else if (type != "NullTokenizer") {
    add(config.tokenizer_model, "tokenizer.model");  // of sentencepiece
  }
  return files;
}

}  // namespace viaduct::training
