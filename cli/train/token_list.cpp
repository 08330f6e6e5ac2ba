#include "cli/train/token_list.h"

#include <array>
#include <charconv>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"

namespace viaduct::cli {

std::vector<int32_t> parse_token_list(std::string_view text) {
  std::vector<int32_t> ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    std::string_view word = text.substr(begin, end - begin);
    while (word.starts_with(' ')) word.remove_prefix(1);
    int32_t id = 0;
    const auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    VIADUCT_USER_CHECK(error == std::errc() && rest == word.data() + word.size() && id >= 0,
                       "\"{}\" is no list of token ids such as 1,2,3", text);
    ids.push_back(id);
    begin = end + 1;
  }
  return ids;
}

std::string shown_token(const text::Tokenizer& tokenizer, int32_t id) {
  return Json(tokenizer.decode(std::array{id})).dump();
}

}  // namespace viaduct::cli
