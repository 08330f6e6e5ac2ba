// YAML 1.1's implicit types of unquoted scalars, as PyYAML resolves and builds them.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "viaduct/config/yaml.h"

namespace viaduct::config {
namespace {

bool digit(char c) { return c >= '0' && c <= '9'; }
bool digit_or_gap(char c) { return digit(c) || c == '_'; }
template <class Test>
bool all_of(std::string_view text, Test test) {
  return std::all_of(text.begin(), text.end(), test);
}

std::string_view without_sign(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return text;
}

std::string without_gaps(std::string_view text) {
  std::string out(text);
  std::erase(out, '_');
  return out;
}

constexpr std::array<std::string_view, 9> kTrue = {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"};
constexpr std::array<std::string_view, 9> kFalse = {"no",    "No",  "NO",  "false", "False",
                                                    "FALSE", "off", "Off", "OFF"};

/// Splits "1:30:59.5" behind its first digits; false when the groups after the first are not [0-5]?[0-9].
bool base_60_groups(std::string_view text, bool fraction) {
  const size_t first = text.find(':');
  if (first == std::string_view::npos) return false;
  std::string_view rest = text.substr(first + 1);
  if (fraction) {
    const size_t point = rest.find('.');
    if (point == std::string_view::npos || !all_of(rest.substr(point + 1), digit_or_gap)) return false;
    rest = rest.substr(0, point);
  }
  for (;;) {
    const size_t end = rest.find(':');
    const std::string_view group = rest.substr(0, end);
    const bool good = (group.size() == 1 && digit(group[0])) ||
                      (group.size() == 2 && group[0] >= '0' && group[0] <= '5' && digit(group[1]));
    if (!good) return false;
    if (end == std::string_view::npos) return true;
    rest = rest.substr(end + 1);
  }
}

enum class Shape { kNone, kDecimal, kBinary, kOctal, kHex, kBase60 };

Shape integer_shape(std::string_view text) {
  text = without_sign(text);
  if (text.empty()) return Shape::kNone;
  if (text.size() > 2 && text[0] == '0' && text[1] == 'b')
    return all_of(text.substr(2), [](char c) { return c == '0' || c == '1' || c == '_'; }) ? Shape::kBinary
                                                                                           : Shape::kNone;
  if (text.size() > 2 && text[0] == '0' && text[1] == 'x')
    return all_of(text.substr(2), [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) || c == '_'; })
               ? Shape::kHex
               : Shape::kNone;
  if (text == "0") return Shape::kDecimal;
  if (text[0] == '0')
    return all_of(text.substr(1), [](char c) { return (c >= '0' && c <= '7') || c == '_'; }) ? Shape::kOctal
                                                                                             : Shape::kNone;
  if (!digit(text[0])) return Shape::kNone;
  if (all_of(text, digit_or_gap)) return Shape::kDecimal;
  const size_t colon = text.find(':');
  if (colon != std::string_view::npos && all_of(text.substr(0, colon), digit_or_gap) && base_60_groups(text, false))
    return Shape::kBase60;
  return Shape::kNone;
}

/// "[eE][-+][0-9]+" or nothing.
bool exponent_or_end(std::string_view text) {
  if (text.empty()) return true;
  return text.size() >= 3 && (text[0] == 'e' || text[0] == 'E') && (text[1] == '-' || text[1] == '+') &&
         all_of(text.substr(2), digit);
}

enum class FloatShape { kNone, kDecimal, kBase60, kInfinity, kNan };

FloatShape float_shape(std::string_view text) {
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return FloatShape::kNan;
  const bool has_sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  const std::string_view body = without_sign(text);
  if (body == ".inf" || body == ".Inf" || body == ".INF") return FloatShape::kInfinity;
  size_t i = 0;
  while (i < body.size() && digit_or_gap(body[i])) ++i;
  if (i < body.size() && body[i] == '.') {
    if (i == 0 && (has_sign || body.size() == 1 || !digit(body[1]))) return FloatShape::kNone;
    if (i > 0 && !digit(body[0])) return FloatShape::kNone;
    ++i;
    while (i < body.size() && digit_or_gap(body[i])) ++i;
    return exponent_or_end(body.substr(i)) ? FloatShape::kDecimal : FloatShape::kNone;
  }
  if (i > 0 && digit(body[0]) && i < body.size() && body[i] == ':' && base_60_groups(body, true))
    return FloatShape::kBase60;
  return FloatShape::kNone;
}

bool is_date(std::string_view text) {
  size_t at = 0;
  auto digits = [&](size_t least, size_t most) {
    size_t n = 0;
    while (n < most && at < text.size() && digit(text[at])) ++n, ++at;
    return n >= least;
  };
  auto sign = [&](char c) { return at < text.size() && text[at] == c && (++at, true); };
  if (!digits(4, 4) || !sign('-')) return false;
  const size_t month = at;
  if (digits(2, 2) && sign('-') && digits(2, 2) && at == text.size()) return true;
  at = month;
  if (!digits(1, 2) || !sign('-') || !digits(1, 2)) return false;
  auto blanks = [&] {
    size_t n = 0;
    while (at < text.size() && (text[at] == ' ' || text[at] == '\t')) ++n, ++at;
    return n;
  };
  if (!sign('T') && !sign('t') && blanks() == 0) return false;
  if (!digits(1, 2) || !sign(':') || !digits(2, 2) || !sign(':') || !digits(2, 2)) return false;
  if (sign('.')) digits(0, text.size());
  if (at == text.size()) return true;
  blanks();
  if (sign('Z')) return at == text.size();
  if (!sign('+') && !sign('-')) return false;
  if (!digits(1, 2)) return false;
  if (sign(':') && !digits(2, 2)) return false;
  return at == text.size();
}

/// Python's float() of digits with a point and perhaps an exponent.
double to_double(const std::string& text) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) {
    // from_chars does not say which way: beyond the range, or below the smallest subnormal. The decimal point's
    // distance from the first digit that counts, moved by the exponent, does.
    const size_t e = std::min(text.find_first_of("eE"), text.size());
    const size_t point = std::min(text.find('.'), e);
    const size_t leading = text.find_first_of("123456789");
    int64_t exponent = 0;
    if (e < text.size()) {
      const bool negative = text[e + 1] == '-';
      const auto [last, bad] = std::from_chars(text.data() + e + 2, text.data() + text.size(), exponent);
      if (bad != std::errc()) exponent = std::numeric_limits<int32_t>::max();
      if (negative) exponent = -exponent;
    }
    const int64_t magnitude = static_cast<int64_t>(point) - static_cast<int64_t>(leading) + exponent;
    return magnitude > 0 ? std::numeric_limits<double>::infinity() : 0.0;
  }
  return value;
}

Yaml make_integer(std::string_view text, Shape shape) {
  const bool negative = text[0] == '-';
  std::string digits = without_gaps(without_sign(text));
  constexpr size_t kLongest = 4300;  // Python's own limit
  VIADUCT_USER_CHECK(digits.size() <= kLongest, "an integer of {} digits", digits.size());
  if (shape == Shape::kBase60) {
    __int128 value = 0;
    size_t at = 0;
    while (at <= digits.size()) {
      const size_t end = std::min(digits.find(':', at), digits.size());
      int64_t group = 0;
      const auto [last, error] = std::from_chars(digits.data() + at, digits.data() + end, group);
      value = value * 60 + group;
      VIADUCT_USER_CHECK(error == std::errc() && value <= std::numeric_limits<int64_t>::max(),
                         "the base-60 integer '{}' does not fit in 64 bits", text);
      at = end + 1;
    }
    return Yaml(static_cast<int64_t>(negative ? -value : value));
  }
  int base = 10;
  size_t prefix = 0;
  if (shape == Shape::kBinary) base = 2, prefix = 2;
  if (shape == Shape::kHex) base = 16, prefix = 2;
  if (shape == Shape::kOctal) base = 8, prefix = 1;
  digits.erase(0, prefix);
  if (digits.empty() && shape == Shape::kOctal) digits = "0";  // "0_" is 0 to PyYAML
  VIADUCT_USER_CHECK(!digits.empty(), "'{}' is an integer without digits", text);
  if (negative) digits.insert(0, "-");
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error == std::errc() && end == digits.data() + digits.size()) return Yaml(value);
  VIADUCT_USER_CHECK(base == 10, "the integer '{}' does not fit in 64 bits", text);
  return Yaml::big_integer(std::move(digits));
}

Yaml make_float(std::string_view text, FloatShape shape) {
  const double sign = text[0] == '-' ? -1.0 : 1.0;
  switch (shape) {
    case FloatShape::kNan: return Yaml(std::numeric_limits<double>::quiet_NaN());
    case FloatShape::kInfinity: return Yaml(sign * std::numeric_limits<double>::infinity());
    case FloatShape::kDecimal: return Yaml(sign * to_double(without_gaps(without_sign(text))));
    default: break;
  }
  const std::string digits = without_gaps(without_sign(text));
  double value = 0.0, unit = 1.0;
  for (size_t end = digits.size();;) {  // from the last group to the first, as Python adds them
    const size_t colon = digits.rfind(':', end - 1);
    const size_t begin = colon == std::string::npos || colon >= end ? 0 : colon + 1;
    value += to_double(digits.substr(begin, end - begin)) * unit;
    unit *= 60.0;
    if (begin == 0) break;
    end = begin - 1;
  }
  return Yaml(sign * value);
}

}  // namespace

Yaml resolve_plain_scalar(std::string_view text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return Yaml();
  if (std::find(kTrue.begin(), kTrue.end(), text) != kTrue.end()) return Yaml(true);
  if (std::find(kFalse.begin(), kFalse.end(), text) != kFalse.end()) return Yaml(false);
  if (text == "=" || text == "<<") throw UserError(fmt::format("a bare '{}' has no meaning here; quote it", text));
  const char first = text[0];
  if (digit(first) || first == '-' || first == '+' || first == '.') {
    if (const FloatShape shape = float_shape(text); shape != FloatShape::kNone) return make_float(text, shape);
    if (const Shape shape = integer_shape(text); shape != Shape::kNone) return make_integer(text, shape);
    if (is_date(text)) throw UserError(fmt::format("'{}' is a date to YAML; quote it to make it a string", text));
  }
  return Yaml(text);
}

}  // namespace viaduct::config
