// Text as Python's str treats it.
#pragma once

#include <string_view>

namespace viaduct::text {

/// str.strip(): without white space (Unicode's, and the four separators of ASCII) at both ends.
std::string_view strip(std::string_view text);
/// str.rstrip().
std::string_view strip_end(std::string_view text);

}  // namespace viaduct::text
