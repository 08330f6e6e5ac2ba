#include "viaduct/config/override_value.h"

#include <cstdlib>
#include <limits>

#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_blank(char c) { return c == ' ' || c == '\t'; }
constexpr std::string_view kFreeCharacters = "/-\\+.$%*@?|:_";  // in text without quotes
constexpr size_t kLongestInteger = 4300;                        // in digits, as in YAML
constexpr std::string_view kEscapable = "\\()[]{}:=, \t";       // behind a backslash in it

bool equal_ignoring_case(std::string_view text, std::string_view lower) {
  if (text.size() != lower.size()) return false;
  for (size_t i = 0; i < text.size(); ++i)
    if ((is_letter(text[i]) ? text[i] | 0x20 : text[i]) != lower[i]) return false;
  return true;
}

/// Digits with single underscores between them; 0 or more without a zero before them when `integer`. Returns its
/// length.
size_t digits_at(std::string_view text, size_t at, bool integer) {
  const size_t begin = at;
  while (at < text.size() && (is_digit(text[at]) || (text[at] == '_' && at > begin && at + 1 < text.size() &&
                                                     is_digit(text[at + 1]) && text[at - 1] != '_')))
    ++at;
  if (integer && at > begin + 1 && text[begin] == '0') return 1;
  return at - begin;
}

std::string without_underscores(std::string_view text) {
  std::string out;
  for (char c : text)
    if (c != '_') out += c;
  return out;
}

/// A number of the grammar, whole; nothing when the text is none.
bool parse_number(std::string_view text, Yaml& out) {
  size_t at = !text.empty() && (text[0] == '+' || text[0] == '-') ? 1 : 0;
  const std::string_view word = text.substr(at);
  if (equal_ignoring_case(word, "inf") || equal_ignoring_case(word, "nan")) {
    const double value = equal_ignoring_case(word, "inf") ? std::numeric_limits<double>::infinity()
                                                          : std::numeric_limits<double>::quiet_NaN();
    out = Yaml(text[0] == '-' ? -value : value);
    return true;
  }
  const size_t whole = digits_at(text, at, true);
  at += whole;
  if (whole > 0 && at == text.size()) {
    const std::string plain = without_underscores(text[0] == '+' ? text.substr(1) : text);
    VIADUCT_USER_CHECK(plain.size() <= kLongestInteger, "an integer of {} digits", plain.size());
    errno = 0;
    const int64_t value = std::strtoll(plain.c_str(), nullptr, 10);
    out = errno == ERANGE ? Yaml::big_integer(plain) : Yaml(value);
    return true;
  }
  size_t fraction = 0;
  const bool point = at < text.size() && text[at] == '.';
  if (point) {
    ++at;
    fraction = digits_at(text, at, false);
    at += fraction;
  }
  if (whole + fraction == 0) return false;
  bool exponent = false;
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    const size_t digits = digits_at(text, at, false);
    if (digits == 0) return false;
    at += digits;
    exponent = true;
  }
  if (at != text.size() || (!point && !exponent)) return false;
  out = Yaml(std::strtod(without_underscores(text).c_str(), nullptr));
  return true;
}

Yaml typed(std::string_view text) {
  Yaml number;
  if (parse_number(text, number)) return number;
  if (equal_ignoring_case(text, "null")) return Yaml();
  if (equal_ignoring_case(text, "true")) return Yaml(true);
  if (equal_ignoring_case(text, "false")) return Yaml(false);
  return Yaml(text);
}

class ValueParser {
 public:
  explicit ValueParser(std::string_view text) : text_(text) {}

  Yaml whole() {
    if (text_.empty()) return Yaml("");
    Yaml value = element(false);
    skip_blanks();
    if (peek() == ',') fail("several values by commas are a sweep; a list is [a,b], a text with a comma 'a,b'");
    if (at_ < text_.size()) fail("this needs quotes: 'text'");
    return value;
  }

 private:
  static constexpr int kMaxDepth = 50;

  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  void skip_blanks() {
    while (is_blank(peek())) ++at_;
  }
  [[noreturn]] void fail(std::string_view what) const {
    throw UserError(
        fmt::format("cannot read the value at character {} ('{}'): {}", at_ + 1, text_.substr(at_, 20), what));
  }

  Yaml element(bool nested) {
    if (++depth_ > kMaxDepth) fail("nested too deep");
    skip_blanks();
    Yaml value;
    if (peek() == '[') {
      value = list();
    } else if (peek() == '{') {
      value = mapping();
    } else if (peek() == '"' || peek() == '\'') {
      value = Yaml(quoted());
    } else {
      value = unquoted(nested, true);
    }
    --depth_;
    return value;
  }

  Yaml list() {
    Yaml out = Yaml::sequence();
    ++at_;
    skip_blanks();
    if (peek() == ']') return ++at_, out;
    for (;;) {
      out.items().push_back(element(true));
      skip_blanks();
      if (peek() == ']') return ++at_, out;
      if (peek() != ',') fail("expected ',' or ']'");
      ++at_;
    }
  }

  Yaml mapping() {
    Yaml out = Yaml::mapping();
    ++at_;
    skip_blanks();
    if (peek() == '}') return ++at_, out;
    for (;;) {
      skip_blanks();
      const Yaml key = unquoted(true, false);
      skip_blanks();
      if (peek() != ':') fail("expected ':' behind a key");
      ++at_;
      put(out, key, element(true));
      skip_blanks();
      if (peek() == '}') return ++at_, out;
      if (peek() != ',') fail("expected ',' or '}'");
      ++at_;
    }
  }

  static void put(Yaml& mapping, const Yaml& key, Yaml value) {
    for (Yaml::Member& member : mapping.members())
      if (member.first == key) return void(member.second = std::move(value));
    mapping.members().emplace_back(key, std::move(value));
  }

  /// A quote inside stands behind an odd number of backslashes; these, and those before the last quote, count half.
  std::string quoted() {
    const char quote = text_[at_++];
    std::string out;
    for (;;) {
      size_t slashes = 0;
      while (peek(slashes) == '\\') ++slashes;
      if (at_ + slashes >= text_.size()) fail("a quote that is not closed");
      if (peek(slashes) != quote) {
        out.append(slashes, '\\');
        out += peek(slashes);
        at_ += slashes + 1;
        continue;
      }
      out.append(slashes / 2, '\\');
      at_ += slashes + 1;
      if (slashes % 2 == 0) return out;
      out += quote;
    }
  }

  Yaml unquoted(bool nested, bool colons) {
    const size_t begin = at_;
    std::string out;
    size_t kept = 0;  // of `out`, without blanks at its end
    bool escaped = false;
    while (at_ < text_.size()) {
      const char c = peek();
      if (c == '\\' && at_ + 1 < text_.size() && kEscapable.find(peek(1)) != std::string_view::npos) {
        out += peek(1);
        at_ += 2;
        kept = out.size();
        escaped = true;
        continue;
      }
      if (c == '$' && peek(1) == '{') fail("${...} is not supported; write the value");
      if (c == ':' && !colons) break;
      if (c == '(') function(text_.substr(begin, at_ - begin));
      const bool free = is_letter(c) || is_digit(c) || kFreeCharacters.find(c) != std::string_view::npos;
      if (!free && !is_blank(c)) break;
      out += c;
      if (free) kept = out.size();
      ++at_;
    }
    if (kept == 0) fail(nested ? "a value is missing" : "this needs quotes: 'text'");
    out.resize(kept);
    return escaped ? Yaml(std::move(out)) : typed(out);
  }

  [[noreturn]] void function(std::string_view name) const {
    static constexpr std::string_view kSweeps[] = {"choice", "range", "interval", "glob", "sort", "shuffle", "tag"};
    for (const std::string_view sweep : kSweeps)
      if (name == sweep) fail("a sweep over values is several runs; give one value");
    fail("a parenthesis needs quotes: 'text'");
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Yaml parse_override_value(std::string_view text) {
  VIADUCT_USER_CHECK(is_utf8(text), "the value is not UTF-8");
  return ValueParser(text).whole();
}

}  // namespace viaduct::config
