#include "viaduct/formats/pickle_text.h"

#include <charconv>
#include <limits>

#include "viaduct/core/error.h"

namespace viaduct::formats {

namespace {

// A number that fills `text`.
template <class T>
T whole_number(std::string_view text, std::string_view what, int base = 10) {
  T value = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value, base);
  VIADUCT_USER_CHECK(error == std::errc() && at == end && !text.empty(), "{}", what);
  return value;
}

uint32_t escaped(std::string_view text, size_t from, size_t digits) {
  VIADUCT_USER_CHECK(from + digits <= text.size(), "a broken escape in a text");
  return whole_number<uint32_t>(text.substr(from, digits), "a broken escape in a text", 16);
}

void append_utf8(std::string& out, uint32_t c) {
  const auto rest = [&](int shift) { out += static_cast<char>(0x80 | (c >> shift & 63)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    rest(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    rest(6);
    rest(0);
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    rest(12);
    rest(6);
    rest(0);
  }
}

}  // namespace

uint64_t parse_index(std::string_view text) {
  return whole_number<uint64_t>(text, "a memo index that is no number");
}

int64_t parse_decimal(std::string_view text) {
  if (text.ends_with('L')) text.remove_suffix(1);
  return whole_number<int64_t>(text, "an int in text that is no number of 64 bits");
}

double parse_float(std::string_view text) {
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  VIADUCT_USER_CHECK(error == std::errc() && at == end && !text.empty(), "a float in text that is no number");
  return value;
}

std::string decode_raw_unicode(std::string_view raw) {
  std::string out;
  for (size_t i = 0; i < raw.size();) {
    const char kind = raw[i] == '\\' && i + 1 < raw.size() ? raw[i + 1] : '\0';
    const size_t digits = kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    if (digits > 0) {
      const uint32_t c = escaped(raw, i + 2, digits);
      VIADUCT_USER_CHECK(c <= 0x10ffff, "a broken escape in a text");
      append_utf8(out, c);
      i += 2 + digits;
    } else {
      append_utf8(out, static_cast<uint8_t>(raw[i++]));
    }
  }
  return out;
}

std::string decode_quoted(std::string_view raw) {
  while (!raw.empty() && (raw.back() == ' ' || raw.back() == '\r')) raw.remove_suffix(1);
  VIADUCT_USER_CHECK(raw.size() >= 2 && raw.front() == raw.back() && (raw.front() == '\'' || raw.front() == '"'),
                     "a STRING without quotes");
  raw = raw.substr(1, raw.size() - 2);
  std::string out;
  for (size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '\\') {
      out += raw[i];
      continue;
    }
    VIADUCT_USER_CHECK(++i < raw.size(), "a broken escape in a text");
    switch (raw[i]) {
      case 'n': out += '\n'; break;
      case 't': out += '\t'; break;
      case 'r': out += '\r'; break;
      case 'x':
        out += static_cast<char>(escaped(raw, i + 1, 2));
        i += 2;
        break;
      case '\\':
      case '\'':
      case '"': out += raw[i]; break;
      default: VIADUCT_USER_CHECK(false, "an escape that Python does not write in a text");
    }
  }
  return out;
}

}  // namespace viaduct::formats
