#include "viaduct/text/megatron_tokenizer.h"

#include <algorithm>
#include <array>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/text/hf_folder.h"
#include "viaduct/text/null_tokenizer.h"
#include "viaduct/text/sentencepiece_tokenizer.h"
#include "viaduct/text/tiktoken_tokenizer.h"

namespace viaduct::text {
namespace {

constexpr uint64_t kLargestFile = 512u << 20;
constexpr int64_t kDefaultTiktokenVocabulary = 1 << 17;
constexpr std::array<std::string_view, 7> kTiktokenSpecial = {"<unk>", "<s>",   "</s>", "<mask>",
                                                              "<pad>", "<cls>", "<sep>"};

const std::string& need(const std::string& value, std::string_view option,
                        const MegatronTokenizerOptions& options) {
  VIADUCT_USER_CHECK(!value.empty(), "{} needs {}: set tokenizer.{}", options.tokenizer_type, option, option);
  return value;
}

using Templates = std::vector<std::pair<std::string, std::string>>;

Templates own_template(const MegatronTokenizerOptions& options) {
  return options.chat_template ? Templates{{"default", *options.chat_template}} : Templates{};
}

// A class over vocabulary files, with the roles that Megatron fills from others: bos and cls, eos and sep.
std::unique_ptr<Tokenizer> open_vocabulary(const MegatronTokenizerOptions& options, const std::string& class_name,
                                           Json config, const Path& vocab, const std::string& json) {
  HfFolder folder{.folder = vocab.parent_path(),
                  .config = std::move(config),
                  .special_tokens_map = Json::object(),
                  .added_tokens = Json::object(),
                  .tokenizer_class = {},
                  .eos_ids = {},
                  .chat_templates = own_template(options)};
  folder.tokenizer_class = tokenizer_class(class_name, folder.config);
  return open_hf_tokenizer(folder, vocab, json, true);
}

Json list_of(const std::vector<std::string>& texts) {
  std::vector<Json> items(texts.begin(), texts.end());
  return Json::array(std::move(items));
}

std::unique_ptr<Tokenizer> open_gpt2(const MegatronTokenizerOptions& options) {
  const Path vocab = need(options.vocab_file, "vocab_file", options);
  const Path merges = need(options.merge_file, "merge_file", options);
  Json config = Json::object({{"sep_token", "<|endoftext|>"},
                              {"cls_token", "<|endoftext|>"},
                              {"extra_special_tokens", list_of(options.special_tokens)}});
  return open_vocabulary(options, "GPT2Tokenizer", std::move(config), vocab,
                         tokenizer_json_of_merges(read_text_file(vocab, kLargestFile),
                                                  read_text_file(merges, kLargestFile), vocab.string()));
}

std::unique_ptr<Tokenizer> open_bert(const MegatronTokenizerOptions& options) {
  const Path vocab = need(options.vocab_file, "vocab_file", options);
  const bool is_cased = options.tokenizer_type == "BertWordPieceCase";
  std::vector<std::string> extra = options.special_tokens;
  if (is_cased) {
    // Upstream gives the cased one T5's sentinels and nothing else.
    extra.clear();
    for (int i = 0; i < 100; ++i) extra.push_back(fmt::format("<extra_id_{}>", i));
  }
  Json config = Json::object({{"do_lower_case", !is_cased},
                              {"bos_token", "[CLS]"},
                              {"eos_token", "[SEP]"},
                              {"extra_special_tokens", list_of(extra)}});
  return open_vocabulary(options, "BertTokenizer", std::move(config), vocab,
                         tokenizer_json_of_words(read_text_file(vocab, kLargestFile), "[UNK]", vocab.string()));
}

std::unique_ptr<Tokenizer> open_sentencepiece(const MegatronTokenizerOptions& options) {
  const Path file = need(options.tokenizer_model, "tokenizer_model", options);
  VIADUCT_USER_CHECK(options.special_tokens.empty() || options.tokenizer_sentencepiece_legacy,
                     "{}: special_tokens need tokenizer_sentencepiece_legacy; else they belong into the model",
                     options.tokenizer_type);
  SentencePieceOptions settings{.special_tokens = options.special_tokens,
                                .legacy = options.tokenizer_sentencepiece_legacy};
  TokenizerFacts facts{
      .origin = file.string(), .special_tokens = {}, .eos_ids = {}, .chat_templates = own_template(options)};
  return std::make_unique<SentencePieceTokenizer>(read_text_file(file, kLargestFile), std::move(settings),
                                                  std::move(facts));
}

std::unique_ptr<Tokenizer> open_tiktoken(const MegatronTokenizerOptions& options) {
  const Path file = need(options.tokenizer_model, "tokenizer_model", options);
  std::vector<std::string> names = options.special_tokens;
  if (names.empty()) names.assign(kTiktokenSpecial.begin(), kTiktokenSpecial.end());
  const int64_t vocab_size = options.vocab_size.value_or(kDefaultTiktokenVocabulary);
  const int64_t special_count = options.tiktoken_num_special_tokens;
  VIADUCT_USER_CHECK(
      static_cast<int64_t>(names.size()) <= special_count && special_count < vocab_size,
      "TikTokenizer: {} special tokens must fit into tiktoken_num_special_tokens ({}), and these into "
      "vocab_size ({})",
      names.size(), special_count, vocab_size);
  for (const std::string_view token : kTiktokenSpecial)
    VIADUCT_USER_CHECK(std::find(names.begin(), names.end(), token) != names.end(),
                       "TikTokenizer: special_tokens need {}", token);
  for (auto i = static_cast<int64_t>(names.size()); i < special_count; ++i)
    names.push_back(fmt::format("<SPECIAL_{}>", i));
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  VIADUCT_USER_CHECK(twice == sorted.end(), "TikTokenizer: the special token {} is there twice", *twice);
  std::vector<std::pair<std::string, int32_t>> special;
  for (const std::string& name : names) special.emplace_back(name, static_cast<int32_t>(special.size()));
  VIADUCT_USER_CHECK(options.tiktoken_pattern == "v1" || options.tiktoken_pattern == "v2",
                     "TikTokenizer: tiktoken_pattern is '{}': expected v1 or v2", options.tiktoken_pattern);
  const auto wanted = static_cast<size_t>(vocab_size - special_count);
  const std::vector<TokenRank> ranks = parse_tiktoken_json(read_text_file(file, kLargestFile), wanted,
                                                           static_cast<uint32_t>(special_count), file.string());
  VIADUCT_USER_CHECK_EQ(ranks.size(), wanted,
                        "{}: tokens for vocab_size {} without {} special ones: set tokenizer.vocab_size",
                        file.string(), vocab_size, special_count);
  TokenizerFacts facts{.origin = file.string(),
                       .special_tokens = {{"bos_token", "<s>"},
                                          {"eos_token", "</s>"},
                                          {"unk_token", "<unk>"},
                                          {"sep_token", "<sep>"},
                                          {"pad_token", "<pad>"},
                                          {"cls_token", "<cls>"},
                                          {"mask_token", "<mask>"}},
                       .eos_ids = {},
                       .chat_templates = own_template(options)};
  return std::make_unique<TiktokenTokenizer>(
      ranks, options.tiktoken_pattern == "v1" ? kTiktokenPatternV1 : kTiktokenPatternV2, special, false,
      std::move(facts));
}

std::unique_ptr<Tokenizer> open_hugging_face(const MegatronTokenizerOptions& options) {
  const Path folder = need(options.tokenizer_model, "tokenizer_model", options);
  VIADUCT_USER_CHECK(
      std::filesystem::is_directory(folder),
      "{}: there is no such folder: download the model first (viaduct download), and give its folder",
      folder.string());
  const Path file = folder / "tokenizer.json";
  if (!std::filesystem::exists(file)) {
    VIADUCT_USER_CHECK(options.special_tokens.empty() && !options.chat_template,
                       "{}: special_tokens and chat_template need a tokenizer.json in this folder",
                       folder.string());
    return open_tokenizer(folder);
  }
  HfFolder files = read_hf_folder(folder);
  if (options.chat_template) files.chat_templates = own_template(options);
  if (!options.special_tokens.empty()) {
    // They take the place of the config's, and keep their ids.
    files.config.set("extra_special_tokens", list_of(options.special_tokens));
    files.config.erase("additional_special_tokens");
  }
  return open_hf_tokenizer(files, file, read_text_file(file, kLargestFile), false);
}

}  // namespace

std::unique_ptr<Tokenizer> open_megatron_tokenizer(const MegatronTokenizerOptions& options) {
  const std::string& type = options.tokenizer_type;
  if (type == "HuggingFaceTokenizer") return open_hugging_face(options);
  if (type == "SentencePieceTokenizer" || type == "GPTSentencePieceTokenizer" || type == "Llama2Tokenizer")
    return open_sentencepiece(options);
  if (type == "GPT2BPETokenizer") return open_gpt2(options);
  if (type == "BertWordPieceLowerCase" || type == "BertWordPieceCase") return open_bert(options);
  if (type == "TikTokenizer") return open_tiktoken(options);
  if (type == "NullTokenizer") {
    VIADUCT_USER_CHECK(options.vocab_size, "NullTokenizer needs vocab_size: set tokenizer.vocab_size");
    return std::make_unique<NullTokenizer>(*options.vocab_size, options.null_tokenizer_eod_id);
  }
  VIADUCT_USER_CHECK(
      type != "MultimodalTokenizer",
      "MultimodalTokenizer is not supported yet: HuggingFaceTokenizer reads the text of vision models");
  const std::vector<std::string> known = {
      "HuggingFaceTokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer",
      "Llama2Tokenizer",      "GPT2BPETokenizer",       "BertWordPieceLowerCase",
      "BertWordPieceCase",    "TikTokenizer",           "NullTokenizer"};
  const std::optional<std::string> near = nearest(type, known);
  throw UserError(fmt::format("tokenizer_type '{}' is not known{}; known are {}", type,
                              near ? fmt::format(" (did you mean {}?)", *near) : "", fmt::join(known, ", ")));
}

}  // namespace viaduct::text
