// Tokens on the command line and in tables.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/text/tokenizer.h"

namespace viaduct::cli {

/// "1,2,3". UserError for anything else.
std::vector<int32_t> parse_token_list(std::string_view text);

/// The text of a token, quoted, on one line.
std::string shown_token(const text::Tokenizer& tokenizer, int32_t id);

}  // namespace viaduct::cli
