// The text arguments of pickle protocol 0.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace viaduct::formats {

// All: UserError without origin for what Python would not write.

/// PUT and GET: a number of 0 or more.
uint64_t parse_index(std::string_view text);
/// INT and LONG: a number of 64 bits, with an L at its end or not.
int64_t parse_decimal(std::string_view text);
/// FLOAT: repr of a float, "inf" and "nan" among them.
double parse_float(std::string_view text);
/// UNICODE: Latin-1 with \uXXXX and \UXXXXXXXX, as UTF-8 (surrogates included: the caller checks).
std::string decode_raw_unicode(std::string_view raw);
/// STRING: the bytes of a quoted Python literal.
std::string decode_quoted(std::string_view raw);

}  // namespace viaduct::formats
