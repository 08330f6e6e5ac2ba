#include "viaduct/data/python_escapes.h"

#include <cstdint>

#include "viaduct/core/error.h"

namespace viaduct::data {
namespace {

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 63));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 63));
    out += static_cast<char>(0x80 | (code & 63));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 63));
    out += static_cast<char>(0x80 | (code >> 6 & 63));
    out += static_cast<char>(0x80 | (code & 63));
  }
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

}  // namespace

std::string unescape_python(std::string_view text, std::string_view option) {
  std::string out;
  size_t at = 0;
  // A number of up to `most` digits; `all` of them must be there.
  const auto number = [&](uint32_t base, size_t most, bool all) {
    uint32_t value = 0;
    size_t count = 0;
    for (; count < most && at < text.size() && digit(text[at]) < static_cast<int>(base); ++count, ++at)
      value = value * base + static_cast<uint32_t>(digit(text[at]));
    VIADUCT_USER_CHECK(!all || count == most, "{} '{}': an escape ends too early at character {}", option, text,
                       at);
    VIADUCT_USER_CHECK(value < 0x110000 && (value < 0xD800 || value > 0xDFFF),
                       "{} '{}': the escape before character {} is no character", option, text, at);
    append_utf8(out, value);
  };
  while (at < text.size()) {
    if (text[at] != '\\') {
      out += text[at++];
      continue;
    }
    VIADUCT_USER_CHECK(at + 1 < text.size(), "{} '{}' ends with a backslash: write \\\\ for one", option, text);
    const char escape = text[at + 1];
    at += 2;
    switch (escape) {
      case '\n': break;
      case '\\':
      case '\'':
      case '"': out += escape; break;
      case 'a': out += '\a'; break;
      case 'b': out += '\b'; break;
      case 'f': out += '\f'; break;
      case 'n': out += '\n'; break;
      case 'r': out += '\r'; break;
      case 't': out += '\t'; break;
      case 'v': out += '\v'; break;
      case 'x': number(16, 2, true); break;
      case 'u': number(16, 4, true); break;
      case 'U': number(16, 8, true); break;
      case 'N':
        throw UserError(fmt::format("{} '{}': \\N{{...}} is not known here: write the character", option, text));
      default:
        if (digit(escape) < 8) {
          --at;
          number(8, 3, false);
        } else {
          out += '\\';
          out += escape;
        }
    }
  }
  return out;
}

}  // namespace viaduct::data
