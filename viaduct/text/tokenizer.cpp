#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

std::optional<std::string> Tokenizer::special_token(std::string_view role) const {
  for (const auto& [name, text] : facts_.special_tokens)
    if (name == role) return text;
  return std::nullopt;
}

std::optional<int32_t> Tokenizer::special_id(std::string_view role) const {
  const std::optional<std::string> token = special_token(role);
  return token ? token_to_id(*token) : std::nullopt;
}

}  // namespace viaduct::text
