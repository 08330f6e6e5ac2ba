// Escapes of Python's texts, which command lines bring into options.
#pragma once

#include <string>
#include <string_view>

namespace viaduct::data {

/// `text` with \n, \t, \\, \', \", \a, \b, \f, \r, \v, \ooo, \xhh, \uhhhh, \Uhhhhhhhh and line ends behind a
/// backslash replaced as in a text of Python's; a backslash before another character stays. UserError that begins
/// with `option` for an escape that is cut off, no character, or a name (\N{...}).
std::string unescape_python(std::string_view text, std::string_view option);

}  // namespace viaduct::data
