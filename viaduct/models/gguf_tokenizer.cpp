#include "viaduct/models/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
#include "viaduct/core/strings.h"

namespace viaduct::models {

namespace {

using formats::GgufFile;
using formats::GgufValue;

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
constexpr int64_t kControlToken = 3;           // token_type of tokens that never come from text
constexpr int64_t kUserDefinedToken = 4;       // and of those that are found whole
constexpr size_t kMaxMergedBytes = 1024;       // no token that is made by merging is as long
constexpr std::string_view kSpace = "\u2581";  // sentencepiece's mark for a space
constexpr std::string_view kQwenSplit =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How byte-level text is cut before tokens are merged, by tokenizer.ggml.pre: one pattern after the other, or
// GPT-2's.
struct Split {
  std::string_view pre;
  std::vector<std::string_view> patterns = {};
  bool ignore_merges = false;  // a piece that is a token is taken as it is
};
const Split* find_split(const GgufFile& file) {
  static const Split kSplits[] = {
      {"gpt-2"},
      {"olmo"},
      {"deepseek-v3",
       {R"(\p{N}{1,3})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {"gpt-4o",
       {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
        R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
        R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true},
  };
  const std::string pre = file.text("tokenizer.ggml.pre").value_or("");
  for (const Split& split : kSplits)
    if (split.pre == pre) return &split;
  return nullptr;
}

enum class Kind {
  kByteLevel,      // "gpt2" of a llama model
  kQwen,           // "gpt2" of a qwen model
  kSplit,          // "gpt2" of other models
  kSentencePiece,  // "llama"
};

Json step(std::string_view type, std::vector<Json::Member> fields = {}) {
  fields.insert(fields.begin(), {"type", Json(type)});
  return Json::object(std::move(fields));
}

Json sequence(std::string_view of, std::vector<Json> steps) {
  return step("Sequence", {{std::string(of), Json::array(std::move(steps))}});
}

Json byte_level(bool add_prefix_space, bool trim_offsets, bool use_regex) {
  return step("ByteLevel",
              {{"add_prefix_space", add_prefix_space}, {"trim_offsets", trim_offsets}, {"use_regex", use_regex}});
}

Json replace(std::string_view pattern, std::string_view content) {
  return step("Replace", {{"pattern", Json::object({{"String", pattern}})}, {"content", content}});
}

Json split_at(std::string_view pattern) {
  return step("Split",
              {{"pattern", Json::object({{"Regex", pattern}})}, {"behavior", "Isolated"}, {"invert", false}});
}

std::string quoted(std::string_view text) { return Json(text).dump(); }

class TokenizerBuilder {
 public:
  explicit TokenizerBuilder(const GgufFile& file) : file_(file) {
    read_kind();
    read_tokens();
    read_roles();
  }

  std::string tokenizer_json() const;
  std::string tokenizer_config() const;
  std::string special_tokens_map() const { return roles_json().dump(2) + "\n"; }

 private:
  using Merge = std::pair<std::string_view, std::string_view>;

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    throw UserError(fmt::format("rebuilding the tokenizer of {}: {}", file_.path().string(),
                                fmt::format(text, std::forward<Args>(args)...)));
  }

  // An array of the file's; nullptr when absent. `count` < 0: any length.
  const GgufValue* array(std::string_view key, formats::GgufType type, int64_t count) const;
  std::string_view string_of(const GgufValue& strings, int64_t i, std::string_view key) const;
  void read_kind();
  void read_tokens();
  void read_roles();
  std::optional<int64_t> token_id(std::string_view key) const;

  struct Added {
    int64_t id = 0;
    bool special = true;
  };
  std::vector<Added> added_ids() const;
  Json added_tokens() const;
  Json normalizer() const;
  Json pre_tokenizer() const;
  Json post_processor() const;
  Json decoder() const;
  Json roles_json() const;
  // Bytes are all there is: no unknown token, no bytes beside it.
  bool is_plain() const { return kind_ == Kind::kQwen || kind_ == Kind::kSplit; }
  Json unknown_json() const { return unknown_ && !is_plain() ? Json(tokens_[*unknown_]) : Json(); }
  std::vector<Merge> stored_merges(const GgufValue& merges) const;
  std::vector<Merge> merges_by_score() const;

  const GgufFile& file_;
  Kind kind_{};
  const Split* split_ = nullptr;  // of kSplit
  bool add_space_ = false;        // a space in front of the text
  bool add_bos_ = false;
  bool add_eos_ = false;
  std::vector<std::string_view> tokens_;               // by id
  std::unordered_map<std::string_view, int64_t> ids_;  // a token that occurs twice has its last id
  std::optional<size_t> bos_, eos_, unknown_, pad_;
};

const GgufValue* TokenizerBuilder::array(std::string_view key, formats::GgufType type, int64_t count) const {
  const GgufValue* value = file_.find_value(key);
  if (value == nullptr) return nullptr;
  if (!value->is_array() || value->element_type() != type)
    fail("metadata key {} must be an array of {}, it is of type {}", key, formats::name(type),
         formats::name(value->type()));
  if (count >= 0 && value->size() != count)
    fail("metadata key {} has {} elements for {} tokens", key, value->size(), count);
  return value;
}

std::string_view TokenizerBuilder::string_of(const GgufValue& strings, int64_t i, std::string_view key) const {
  const std::string_view text = strings.string_at(i);
  if (!is_utf8(text)) fail("element {} of metadata key {} is not UTF-8", i, key);
  return text;
}

void TokenizerBuilder::read_kind() {
  const std::string model = file_.text("tokenizer.ggml.model").value_or("");
  const std::string architecture = file_.text("general.architecture").value_or("");
  if (model == "llama") {
    kind_ = Kind::kSentencePiece;
  } else if (model == "gpt2") {
    split_ = architecture == "llama" || architecture.starts_with("qwen") ? nullptr : find_split(file_);
    kind_ = split_ ? Kind::kSplit : architecture.starts_with("qwen") ? Kind::kQwen : Kind::kByteLevel;
  } else {
    fail("tokenizer.ggml.model is '{}'; gpt2 (byte-level BPE) and llama (sentencepiece BPE) can be rebuilt", model);
  }
  const bool is_sentencepiece = kind_ == Kind::kSentencePiece;
  // transformers gives a byte-level tokenizer of a llama model no such space, whatever the file says.
  add_space_ =
      kind_ != Kind::kByteLevel && file_.flag("tokenizer.ggml.add_space_prefix").value_or(is_sentencepiece);
  add_bos_ = file_.flag("tokenizer.ggml.add_bos_token").value_or(is_sentencepiece);
  add_eos_ = file_.flag("tokenizer.ggml.add_eos_token").value_or(false);
}

void TokenizerBuilder::read_tokens() {
  const GgufValue* tokens = array(kTokensKey, formats::GgufType::kString, -1);
  if (tokens == nullptr) fail("metadata key {} is missing", kTokensKey);
  tokens_.reserve(static_cast<size_t>(tokens->size()));
  for (int64_t i = 0; i < tokens->size(); ++i) {
    tokens_.push_back(string_of(*tokens, i, kTokensKey));
    ids_[tokens_.back()] = i;
  }
}

std::optional<int64_t> TokenizerBuilder::token_id(std::string_view key) const {
  const std::optional<int64_t> id = file_.integer(key);
  // llama.cpp writes -1 for "none".
  if (!id || *id == -1 || *id == UINT32_MAX) return std::nullopt;
  if (*id < 0 || *id >= static_cast<int64_t>(tokens_.size()))
    fail("metadata key {} is {}, there are {} tokens", key, *id, tokens_.size());
  return id;
}

void TokenizerBuilder::read_roles() {
  bos_ = token_id("tokenizer.ggml.bos_token_id");
  eos_ = token_id("tokenizer.ggml.eos_token_id");
  unknown_ = token_id("tokenizer.ggml.unknown_token_id");
  pad_ = token_id("tokenizer.ggml.padding_token_id");
  add_bos_ = add_bos_ && bos_;
  add_eos_ = add_eos_ && eos_;
}

std::vector<TokenizerBuilder::Added> TokenizerBuilder::added_ids() const {
  std::map<int64_t, bool> special;  // id -> is it so
  const auto add = [&](size_t id, bool is_special) {
    if (!tokens_[id].empty()) special[ids_.at(tokens_[id])] |= is_special;
  };
  if (const GgufValue* types = array(kTypesKey, formats::GgufType::kI32, static_cast<int64_t>(tokens_.size())))
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const int64_t type = types->int_at(static_cast<int64_t>(i));
      if (type == kControlToken) add(i, true);
      const bool as_in_file = kind_ == Kind::kSentencePiece || kind_ == Kind::kSplit;
      if (type == kUserDefinedToken && as_in_file) add(i, false);
    }
  for (const auto& role : {bos_, eos_, unknown_, pad_})
    if (role) add(*role, true);
  std::vector<Added> added;
  added.reserve(special.size());
  for (const auto& [id, is_special] : special) added.push_back({id, is_special});
  return added;
}

Json TokenizerBuilder::added_tokens() const {
  std::vector<Json> added;
  for (const auto& [id, special] : added_ids())
    added.push_back(Json::object({{"id", id},
                                  {"content", tokens_[static_cast<size_t>(id)]},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", special}}));
  return Json::array(std::move(added));
}

Json TokenizerBuilder::normalizer() const {
  if (kind_ == Kind::kQwen) return step("NFC");
  if (kind_ == Kind::kSplit) return nullptr;
  std::vector<Json> steps;
  if (kind_ == Kind::kSentencePiece) {
    if (add_space_) steps.push_back(step("Prepend", {{"prepend", kSpace}}));
    steps.push_back(replace(" ", kSpace));
  }
  return sequence("normalizers", std::move(steps));
}

Json TokenizerBuilder::pre_tokenizer() const {
  switch (kind_) {
    case Kind::kSentencePiece: return nullptr;
    case Kind::kByteLevel: return byte_level(false, false, true);
    case Kind::kQwen: return sequence("pretokenizers", {split_at(kQwenSplit), byte_level(add_space_, true, false)});
    case Kind::kSplit: {
      if (split_->patterns.empty()) return byte_level(add_space_, true, true);
      std::vector<Json> steps;
      steps.reserve(split_->patterns.size() + 1);
      for (const std::string_view pattern : split_->patterns) steps.push_back(split_at(pattern));
      steps.push_back(byte_level(add_space_, true, false));
      return sequence("pretokenizers", std::move(steps));
    }
  }
  return nullptr;
}

// bos A eos, and the same for pairs; tokens that are not added are left out.
Json TokenizerBuilder::post_processor() const {
  if (is_plain() && !add_bos_ && !add_eos_) return byte_level(true, false, true);
  std::vector<Json> single, pair;
  std::vector<Json::Member> special;
  const auto add = [](std::vector<Json>& to, const char* what, std::string_view id, int type) {
    to.push_back(Json::object({{what, Json::object({{"id", id}, {"type_id", type}})}}));
  };
  for (const int type : {0, 1}) {
    if (add_bos_) add(pair, "SpecialToken", tokens_[*bos_], type);
    add(pair, "Sequence", type == 0 ? "A" : "B", type);
    if (add_eos_) add(pair, "SpecialToken", tokens_[*eos_], type);
    if (type == 0) single = pair;
  }
  const auto describe = [&](size_t id) {
    const std::string token(tokens_[id]);
    special.emplace_back(token, Json::object({{"id", token},
                                              {"ids", Json::array({Json(static_cast<int64_t>(id))})},
                                              {"tokens", Json::array({Json(token)})}}));
  };
  if (add_bos_) describe(*bos_);
  if (add_eos_ && !(add_bos_ && tokens_[*bos_] == tokens_[*eos_])) describe(*eos_);
  return step("TemplateProcessing", {{"single", Json::array(std::move(single))},
                                     {"pair", Json::array(std::move(pair))},
                                     {"special_tokens", Json::object(std::move(special))}});
}

Json TokenizerBuilder::decoder() const {
  if (is_plain()) return byte_level(true, true, true);
  std::vector<Json> steps = {step("ByteFallback"), step("Fuse"), replace(kSpace, " ")};
  if (kind_ == Kind::kByteLevel) steps.push_back(byte_level(true, true, true));
  if (add_space_) steps.push_back(step("Strip", {{"content", " "}, {"start", 1}, {"stop", 0}}));
  return sequence("decoders", std::move(steps));
}

std::vector<TokenizerBuilder::Merge> TokenizerBuilder::stored_merges(const GgufValue& merges) const {
  std::vector<Merge> result;
  result.reserve(static_cast<size_t>(merges.size()));
  for (int64_t i = 0; i < merges.size(); ++i) {
    const std::string_view text = string_of(merges, i, kMergesKey);
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
      fail("merge {} is {}, expected two tokens with a space between", i, quoted(text));
    const Merge merge{text.substr(0, space), text.substr(space + 1)};
    const std::string merged = std::string(merge.first) + std::string(merge.second);
    for (const std::string_view token : {merge.first, merge.second, std::string_view(merged)})
      if (!ids_.contains(token)) fail("merge {} is {}, but {} is no token", i, quoted(text), quoted(token));
    result.push_back(merge);
  }
  return result;
}

// A sentencepiece model stores no merges: every way in which a token is two tokens is one, better tokens first.
std::vector<TokenizerBuilder::Merge> TokenizerBuilder::merges_by_score() const {
  const GgufValue* scores = array(kScoresKey, formats::GgufType::kF32, static_cast<int64_t>(tokens_.size()));
  if (scores == nullptr) fail("it has neither {} nor {}", kMergesKey, kScoresKey);
  const auto score = [&](std::string_view token) { return scores->double_at(ids_.at(token)); };
  struct Scored {
    Merge merge;
    double score, first, second;
  };
  std::vector<Scored> all;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string_view token = tokens_[i];
    if (std::isnan(scores->double_at(static_cast<int64_t>(i)))) fail("the score of token {} is not a number", i);
    if (token.size() > kMaxMergedBytes) fail("token {} has {} bytes", i, token.size());
    const size_t before = all.size();
    for (size_t at = 1; at < token.size(); ++at) {
      if ((static_cast<unsigned char>(token[at]) & 0xC0) == 0x80) continue;  // inside a character
      const Merge merge{token.substr(0, at), token.substr(at)};
      if (ids_.contains(merge.first) && ids_.contains(merge.second))
        all.push_back({merge, score(token), score(merge.first), score(merge.second)});
    }
    std::stable_sort(all.begin() + static_cast<ptrdiff_t>(before), all.end(), [](const Scored& a, const Scored& b) {
      return a.first != b.first ? a.first > b.first : a.second > b.second;
    });
  }
  std::stable_sort(all.begin(), all.end(), [](const Scored& a, const Scored& b) { return a.score > b.score; });
  std::vector<Merge> merges;
  merges.reserve(all.size());
  for (const Scored& scored : all) merges.push_back(scored.merge);
  return merges;
}

// Vocabulary and merges are written directly: as Json values they would take a hundred times their text.
std::string TokenizerBuilder::tokenizer_json() const {
  const Json outer = Json::object({{"version", "1.0"},
                                   {"truncation", nullptr},
                                   {"padding", nullptr},
                                   {"added_tokens", added_tokens()},
                                   {"normalizer", normalizer()},
                                   {"pre_tokenizer", pre_tokenizer()},
                                   {"post_processor", post_processor()},
                                   {"decoder", decoder()}});
  std::string out = outer.dump(2);
  out.resize(out.size() - 2);  // "\n}"
  out += ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n";
  const char* affix = kind_ == Kind::kQwen ? "\"\"" : "null";
  out += fmt::format(
      "    \"unk_token\": {},\n    \"continuing_subword_prefix\": {},\n    \"end_of_word_suffix\": {},\n",
      unknown_json().dump(), affix, affix);
  out += fmt::format("    \"fuse_unk\": {},\n    \"byte_fallback\": {},\n    \"ignore_merges\": {},\n", !is_plain(),
                     !is_plain(), split_ && split_->ignore_merges);
  out += "    \"vocab\": {";
  const char* separator = "\n";
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (ids_.at(tokens_[i]) != static_cast<int64_t>(i)) continue;
    out += fmt::format("{}      {}: {}", separator, quoted(tokens_[i]), i);
    separator = ",\n";
  }
  out += "\n    },\n    \"merges\": [";
  const GgufValue* stored = array(kMergesKey, formats::GgufType::kString, -1);
  const std::vector<Merge> merges = stored != nullptr ? stored_merges(*stored) : merges_by_score();
  separator = "\n";
  for (const Merge& merge : merges) {
    out += fmt::format("{}      [\n        {},\n        {}\n      ]", separator, quoted(merge.first),
                       quoted(merge.second));
    separator = ",\n";
  }
  out += merges.empty() ? "]\n  }\n}" : "\n    ]\n  }\n}";
  return out;
}

Json TokenizerBuilder::roles_json() const {
  Json roles = Json::object();
  const std::pair<const char*, std::optional<size_t>> named[] = {
      {"bos_token", bos_}, {"eos_token", eos_}, {"pad_token", pad_}, {"unk_token", unknown_}};
  for (const auto& [key, id] : named)
    if (id) roles.set(key, tokens_[*id]);
  return roles;
}

std::string TokenizerBuilder::tokenizer_config() const {
  Json config = roles_json();
  config.set("add_bos_token", add_bos_);
  config.set("add_eos_token", add_eos_);
  config.set("add_prefix_space", add_space_);
  if (const auto chat_template = file_.text("tokenizer.chat_template")) config.set("chat_template", *chat_template);
  config.set("clean_up_tokenization_spaces", false);
  const std::string architecture = file_.text("general.architecture").value_or("");
  if (const auto length = file_.integer(architecture + ".context_length")) config.set("model_max_length", *length);
  // The class that takes tokenizer.json as it is; the models' own classes build their steps anew.
  config.set("tokenizer_class", "PreTrainedTokenizerFast");
  return config.dump(2) + "\n";
}

}  // namespace

std::string why_no_gguf_tokenizer(const GgufFile& file) {
  if (file.text("tokenizer.ggml.model") != "gpt2") return "";
  const std::string architecture = file.text("general.architecture").value_or("");
  if (architecture == "llama" || architecture.starts_with("qwen") || find_split(file)) return "";
  return fmt::format(
      "the tokenizer is left out: how \"{}\" (tokenizer.ggml.pre) splits text is not in a GGUF file; take the "
      "original model's tokenizer files",
      file.text("tokenizer.ggml.pre").value_or("default"));
}

std::vector<std::pair<std::string, std::string>> gguf_tokenizer_files(const GgufFile& file) {
  const std::optional<std::string> model = file.text("tokenizer.ggml.model");
  if (!model && file.find_value(kTokensKey) == nullptr) return {};
  if (model == "none" || model == "no_vocab") return {};  // llama.cpp's word for it, now and before
  const TokenizerBuilder builder(file);
  return {{"tokenizer.json", builder.tokenizer_json()},
          {"tokenizer_config.json", builder.tokenizer_config()},
          {"special_tokens_map.json", builder.special_tokens_map()}};
}

}  // namespace viaduct::models
