// Vocabulary files of old kinds, as the text of a tokenizer.json.
#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/text/hf_folder.h"

namespace viaduct::text {
namespace {

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

std::string around(const std::string& model) {
  return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, )"
         R"("pre_tokenizer": null, "post_processor": null, "decoder": null, "model": )" +
         model + "}";
}

}  // namespace

std::string tokenizer_json_of_merges(std::string_view vocab_json, std::string_view merges,
                                     const std::string& origin) {
  const Json vocab = Json::parse(vocab_json, origin);
  VIADUCT_USER_CHECK(vocab.is_object(), "{}: expected an object of tokens and ids", origin);
  VIADUCT_USER_CHECK(is_utf8(merges), "{}: the merges are not UTF-8", origin);
  std::vector<Json> pairs;
  constexpr std::string_view kSpaces = " \t\v\f\r";
  for (std::string_view line : lines_of(merges)) {
    if (line.starts_with('#') && pairs.empty()) continue;  // "#version: 0.2"
    const size_t begin = line.find_first_not_of(kSpaces);
    if (begin == std::string_view::npos) continue;
    line = line.substr(begin, line.find_last_not_of(kSpaces) + 1 - begin);
    const size_t space = line.find(' ');
    VIADUCT_USER_CHECK(space != std::string_view::npos && line.find(' ', space + 1) == std::string_view::npos,
                       "{}: '{}' is no pair of tokens", origin, line);
    pairs.push_back(Json::array({Json(line.substr(0, space)), Json(line.substr(space + 1))}));
  }
  const Json model = Json::object({{"type", "BPE"},
                                   {"dropout", nullptr},
                                   {"unk_token", nullptr},
                                   {"continuing_subword_prefix", ""},
                                   {"end_of_word_suffix", ""},
                                   {"fuse_unk", false},
                                   {"byte_fallback", false},
                                   {"vocab", vocab},
                                   {"merges", Json::array(std::move(pairs))}});
  return around(model.dump());
}

std::string tokenizer_json_of_words(std::string_view vocab_txt, std::string_view unk_token,
                                    const std::string& origin) {
  VIADUCT_USER_CHECK(is_utf8(vocab_txt), "{}: this is not UTF-8", origin);
  // A token that is there twice keeps the later id, as a Python dict does.
  std::vector<Json::Member> vocab;
  const std::vector<std::string_view> lines = lines_of(vocab_txt);
  std::vector<std::pair<std::string_view, int64_t>> sorted;
  for (size_t i = 0; i < lines.size(); ++i) sorted.emplace_back(lines[i], static_cast<int64_t>(i));
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < sorted.size(); ++i)
    if (i + 1 == sorted.size() || sorted[i + 1].first != sorted[i].first)
      vocab.emplace_back(std::string(sorted[i].first), Json(sorted[i].second));
  VIADUCT_USER_CHECK(!vocab.empty(), "{}: there are no tokens in it", origin);
  const Json model = Json::object({{"type", "WordPiece"},
                                   {"unk_token", Json(unk_token)},
                                   {"continuing_subword_prefix", "##"},
                                   {"max_input_chars_per_word", 100},
                                   {"vocab", Json::object(std::move(vocab))}});
  return around(model.dump());
}

}  // namespace viaduct::text
