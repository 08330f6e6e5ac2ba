// Which files of a folder make its tokenizer.
#include <set>

#include "viaduct/core/error.h"
#include "viaduct/text/hf_folder.h"
#include "viaduct/text/sentencepiece_tokenizer.h"
#include "viaduct/text/tiktoken_tokenizer.h"

namespace viaduct::text {
namespace {

using std::filesystem::exists;

constexpr uint64_t kLargestFile = 512u << 20;
// Ids that Kimi's and Llama 3's files leave behind the last rank for special tokens.
constexpr int32_t kReservedTokens = 256;

bool flag(const HfFolder& folder, std::string_view key, bool otherwise) {
  const Json* value = folder.config.find(key);
  return value && value->is_bool() ? value->as_bool() : otherwise;
}

std::string content_of(const Json& token) {
  return token.is_object() ? token.at("content").as_string() : token.as_string();
}

std::unique_ptr<Tokenizer> open_tiktoken(const HfFolder& folder, const Path& file, std::string_view content) {
  const std::vector<TokenRank> ranks = parse_tiktoken_file(content, file.string());
  const bool is_kimi = folder.tokenizer_class.name == "TikTokenTokenizer";
  std::vector<SpecialToken> tokens = special_tokens(folder);
  std::vector<std::pair<std::string, int32_t>> special;
  std::set<int32_t> taken;
  if (const Json* added = folder.config.find("added_tokens_decoder")) {
    for (const auto& [id, token] : added->members()) {
      VIADUCT_USER_CHECK(!id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos,
                         "{}: added_tokens_decoder: '{}' is no id", file.string(), id);
      special.emplace_back(content_of(token), std::stoi(id));
      taken.insert(special.back().second);
    }
  }
  if (is_kimi) {
    for (int32_t i = 0; i < kReservedTokens; ++i) {
      const int32_t id = static_cast<int32_t>(ranks.size()) + i;
      if (!taken.contains(id)) special.emplace_back(fmt::format("<|reserved_token_{}|>", id), id);
    }
  } else if (special.empty()) {
    // Llama 3's own file: no other says what follows the ranks (llama3/tokenizer.py).
    const int32_t first = static_cast<int32_t>(ranks.size());
    std::vector<std::string> names = {"<|begin_of_text|>", "<|end_of_text|>"};
    for (int i = 0; i < 4; ++i) names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
    names.insert(names.end(),
                 {"<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"});
    for (int i = 5; static_cast<int32_t>(names.size()) < kReservedTokens; ++i)
      names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
    for (size_t i = 0; i < names.size(); ++i) special.emplace_back(names[i], first + static_cast<int32_t>(i));
    if (tokens.empty()) tokens = {{"bos_token", names[0], {}}, {"eos_token", names[1], {}}};
  }
  TokenizerFacts facts = facts_of(folder, file, tokens);
  facts.eos_ids = folder.eos_ids;
  return std::make_unique<TiktokenTokenizer>(ranks, is_kimi ? kTiktokenPatternKimi : kTiktokenPatternLlama3,
                                             special, flag(folder, "add_bos_token", false), std::move(facts));
}

std::unique_ptr<Tokenizer> open_sentencepiece(const HfFolder& folder, const Path& file, std::string_view content) {
  std::vector<SpecialToken> tokens = special_tokens(folder);
  SentencePieceOptions options{.add_bos = flag(folder, "add_bos_token", false),
                               .add_eos = flag(folder, "add_eos_token", false)};
  const SentencePieceModel model = parse_sentencepiece_model(content, file.string());
  for (const SentencePiece& piece : model.pieces)
    if (piece.type == SentencePiece::Type::kControl) options.special_tokens.push_back(piece.text);
  if (const Json* added = folder.config.find("added_tokens_decoder"))
    for (const auto& [id, token] : added->members()) options.special_tokens.push_back(content_of(token));
  for (const auto& [text, id] : folder.added_tokens.members()) options.special_tokens.push_back(text);
  for (const SpecialToken& token : tokens)
    if (token.role != "unk_token") options.special_tokens.push_back(token.text);
  TokenizerFacts facts = facts_of(folder, file, tokens);
  facts.eos_ids = folder.eos_ids;
  return std::make_unique<SentencePieceTokenizer>(content, std::move(options), std::move(facts));
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const Path& folder) {
  VIADUCT_USER_CHECK(std::filesystem::is_directory(folder), "{}: there is no such folder", folder.string());
  HfFolder files = read_hf_folder(folder);
  if (const Path file = folder / "tokenizer.json"; exists(file))
    return open_hf_tokenizer(files, file, read_text_file(file, kLargestFile), false);
  for (const char* name : {"tokenizer.model", "tiktoken.model", "spiece.model", "spm.model"}) {
    const Path file = folder / name;
    if (!exists(file)) continue;
    const std::string content = read_text_file(file, kLargestFile);
    return is_tiktoken_file(content) ? open_tiktoken(files, file, content)
                                     : open_sentencepiece(files, file, content);
  }
  // A class that is made of files of another kind gives way to the one that is.
  const auto take_class = [&](std::string_view model, const std::string& otherwise) {
    if (files.tokenizer_class.model != model) files.tokenizer_class = tokenizer_class(otherwise, files.config);
  };
  if (const Path vocab = folder / "vocab.json", merges = folder / "merges.txt"; exists(vocab) && exists(merges)) {
    take_class("BPE", "GPT2Tokenizer");
    const std::string json = tokenizer_json_of_merges(read_text_file(vocab, kLargestFile),
                                                      read_text_file(merges, kLargestFile), vocab.string());
    return open_hf_tokenizer(files, vocab, json, true);
  }
  if (const Path vocab = folder / "vocab.txt"; exists(vocab)) {
    take_class("WordPiece", "BertTokenizer");
    std::string unknown = "[UNK]";
    for (const SpecialToken& token : special_tokens(files))
      if (token.role == "unk_token") unknown = token.text;
    return open_hf_tokenizer(
        files, vocab, tokenizer_json_of_words(read_text_file(vocab, kLargestFile), unknown, vocab.string()), true);
  }
  throw UserError(fmt::format(
      "{}: there is no tokenizer in this folder: looked for tokenizer.json, tokenizer.model, tiktoken.model, "
      "vocab.json with merges.txt, and vocab.txt; copy the files of the model's tokenizer there",
      folder.string()));
}

}  // namespace viaduct::text
