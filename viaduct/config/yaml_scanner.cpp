#include "viaduct/config/yaml_scanner.h"

#include <charconv>

namespace viaduct::config {
namespace {

bool is_break(char c) { return c == '\n' || c == '\r'; }
/// A blank or the end of the text.
bool is_blank_or_end(char c) { return c == ' ' || c == '\t' || is_break(c) || c == '\0'; }
bool is_break_or_end(char c) { return is_break(c) || c == '\0'; }
bool is_name_character(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_'; }
bool is_one_of(char c, std::string_view set) { return c != '\0' && set.find(c) != std::string_view::npos; }

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const int following = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr unsigned char kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(kLead[following] | (c >> (6 * following)));
  for (int k = following - 1; k >= 0; --k) out += static_cast<char>(0x80 | ((c >> (6 * k)) & 0x3F));
}

}  // namespace

void throw_yaml_error(std::string_view origin, std::string_view what, YamlPlace place) {
  throw UserError(fmt::format("{}: {} at line {}, column {}", origin, what, place.line + 1, place.column + 1));
}

std::vector<YamlToken> YamlScanner::scan() {
  if (text_.starts_with("\xEF\xBB\xBF")) pos_ = 3;  // a byte order mark
  while (!ended_) {
    skip_to_token();
    drop_stale_keys();
    end_blocks_beyond(place_.column);
    fetch();
  }
  return std::move(tokens_);
}

bool YamlScanner::at_document_marker() const {
  const std::string_view rest = text_.substr(pos_);
  return place_.column == 0 && (rest.starts_with("---") || rest.starts_with("...")) && is_blank_or_end(peek(3));
}

void YamlScanner::forward(size_t count) {
  for (; count > 0; --count, ++pos_) {
    const char c = text_[pos_];
    if ((static_cast<unsigned char>(c) & 0xC0) == 0x80) continue;  // inside a character
    ++characters_;
    if (c == '\n' || (c == '\r' && peek(1) != '\n')) {
      ++place_.line;
      place_.column = 0;
    } else {
      ++place_.column;
    }
  }
}

std::string YamlScanner::take(size_t count) {
  std::string out(text_.substr(pos_, count));
  forward(count);
  return out;
}

bool YamlScanner::take_break() {
  if (!is_break(peek())) return false;
  forward(peek() == '\r' && peek(1) == '\n' ? 2 : 1);
  return true;
}

void YamlScanner::skip_to_token() {
  for (;;) {
    while (peek() == ' ') forward();
    if (peek() == '#')
      while (!is_break_or_end(peek())) forward();
    if (!take_break()) return;
    if (flow_level_ == 0) key_allowed_ = true;
  }
}

void YamlScanner::add(Kind kind, YamlPlace place, std::string text, bool plain) {
  if (tokens_.size() >= 4 * limits_.nodes + 16) fail(fmt::format("more than {} nodes", limits_.nodes));
  tokens_.push_back({kind, plain, place.line, place.column, std::move(text)});
}

void YamlScanner::drop_stale_keys() {
  constexpr size_t kLongestKey = 1024;
  for (std::optional<PossibleKey>& key : keys_) {
    if (!key || (key->place.line == place_.line && characters_ - key->characters <= kLongestKey)) continue;
    if (key->required) fail("expected ':' after a key");
    key.reset();
  }
}

void YamlScanner::end_blocks_beyond(int column) {
  if (flow_level_ > 0) return;
  while (indent_ > column) {
    indent_ = indents_.back();
    indents_.pop_back();
    add(Kind::kBlockEnd);
  }
}

bool YamlScanner::begin_block(int column) {
  if (indent_ >= column) return false;
  if (static_cast<int>(indents_.size()) > limits_.depth)
    fail(fmt::format("nested deeper than {} levels", limits_.depth));
  indents_.push_back(indent_);
  indent_ = column;
  return true;
}

void YamlScanner::forget_key() {
  if (key_here() && key_here()->required) fail("expected ':' after a key");
  key_here().reset();
}

void YamlScanner::save_key() {
  if (!key_allowed_) return;
  const bool required = flow_level_ == 0 && indent_ == place_.column;
  forget_key();
  key_here() = PossibleKey{tokens_.size(), required, characters_, place_};
}

bool YamlScanner::starts_plain() const {
  const char c = peek();
  if (!is_blank_or_end(c) && !is_one_of(c, "-?:,[]{}#&*!|>'\"%@`")) return true;
  return !is_blank_or_end(peek(1)) && (c == '-' || (flow_level_ == 0 && (c == '?' || c == ':')));
}

void YamlScanner::fetch() {
  if (at_end()) {
    end_blocks_beyond(-1);
    forget_key();
    add(Kind::kStreamEnd);
    ended_ = true;
    return;
  }
  const char c = peek();
  if (c == '%' && place_.column == 0) return fetch_directive();
  if (at_document_marker()) return fetch_document_marker(c == '-' ? Kind::kDocumentStart : Kind::kDocumentEnd);
  const bool before_blank = is_blank_or_end(peek(1));
  switch (c) {
    case '[': return fetch_flow_start(Kind::kFlowSequenceStart);
    case '{': return fetch_flow_start(Kind::kFlowMappingStart);
    case ']': return fetch_flow_end(Kind::kFlowSequenceEnd);
    case '}': return fetch_flow_end(Kind::kFlowMappingEnd);
    case ',': return fetch_flow_entry();
    case '*': return fetch_name(Kind::kAlias);
    case '&': return fetch_name(Kind::kAnchor);
    case '!': return fetch_tag();
    case '\'': return fetch_quoted(false);
    case '"': return fetch_quoted(true);
    default: break;
  }
  if (c == '-' && before_blank) return fetch_block_entry();
  if (c == '?' && (flow_level_ > 0 || before_blank)) return fetch_key();
  if (c == ':' && (flow_level_ > 0 || before_blank)) return fetch_value();
  if ((c == '|' || c == '>') && flow_level_ == 0) return fetch_block_scalar(c == '>');
  if (starts_plain()) return fetch_plain();
  fail(c == '\t' ? "a tab where YAML wants spaces" : fmt::format("the character '{}', which begins nothing,", c));
}

void YamlScanner::fetch_directive() {
  end_blocks_beyond(-1);
  forget_key();
  key_allowed_ = false;
  add(Kind::kDirective);
  size_t length = 0;
  while (!is_break_or_end(peek(length))) ++length;
  const std::string line = take(length);
  if (!line.starts_with("%YAML 1.")) fail(fmt::format("the directive '{}'", line));
}

void YamlScanner::fetch_document_marker(Kind kind) {
  end_blocks_beyond(-1);
  forget_key();
  key_allowed_ = false;
  add(kind);
  forward(3);
}

void YamlScanner::fetch_flow_start(Kind kind) {
  if (flow_level_ >= limits_.depth) fail(fmt::format("nested deeper than {} levels", limits_.depth));
  save_key();
  ++flow_level_;
  keys_.emplace_back();
  key_allowed_ = true;
  add(kind);
  forward();
}

void YamlScanner::fetch_flow_end(Kind kind) {
  forget_key();
  if (flow_level_ > 0) {
    --flow_level_;
    keys_.pop_back();
  }
  key_allowed_ = false;
  add(kind);
  forward();
}

void YamlScanner::fetch_flow_entry() {
  key_allowed_ = true;
  forget_key();
  add(Kind::kFlowEntry);
  forward();
}

void YamlScanner::fetch_block_entry() {
  if (flow_level_ == 0) {
    if (!key_allowed_) fail("an entry of a list where none may stand");
    if (begin_block(place_.column)) add(Kind::kBlockSequenceStart);
  }
  key_allowed_ = true;
  forget_key();
  add(Kind::kBlockEntry);
  forward();
}

void YamlScanner::fetch_key() {
  if (flow_level_ == 0) {
    if (!key_allowed_) fail("a key where none may stand");
    if (begin_block(place_.column)) add(Kind::kBlockMappingStart);
  }
  key_allowed_ = flow_level_ == 0;
  forget_key();
  add(Kind::kKey);
  forward();
}

void YamlScanner::fetch_value() {
  if (key_here()) {
    const PossibleKey key = *key_here();
    key_here().reset();
    const auto at = tokens_.begin() + static_cast<std::ptrdiff_t>(key.token);
    YamlToken token{Kind::kKey, false, key.place.line, key.place.column, {}};
    if (flow_level_ == 0 && begin_block(key.place.column)) {
      YamlToken start = token;
      start.kind = Kind::kBlockMappingStart;
      tokens_.insert(at, {std::move(start), std::move(token)});
    } else {
      tokens_.insert(at, std::move(token));
    }
    key_allowed_ = false;
  } else {
    if (flow_level_ == 0) {
      if (!key_allowed_) fail("a ':' where no value may stand (a string with ': ' in it needs quotes)");
      if (begin_block(place_.column)) add(Kind::kBlockMappingStart);
    }
    key_allowed_ = flow_level_ == 0;
    forget_key();
  }
  add(Kind::kValue);
  forward();
}

void YamlScanner::fetch_name(Kind kind) {
  save_key();
  key_allowed_ = false;
  const YamlPlace start = place_;
  forward();
  size_t length = 0;
  while (is_name_character(peek(length))) ++length;
  if (length == 0) fail("an anchor or alias without a name");
  if (!is_blank_or_end(peek(length)) && !is_one_of(peek(length), "?:,]}%@`"))
    fail("an anchor or alias with odd characters");
  add(kind, start, take(length));
}

void YamlScanner::fetch_tag() {
  save_key();
  key_allowed_ = false;
  const YamlPlace start = place_;
  size_t length = 0;
  while (!is_break_or_end(peek(length)) && peek(length) != ' ' && peek(length) != '\t') ++length;
  // In flow context a tag may not touch what follows it, as in PyYAML.
  std::string tag = take(length);
  if (tag.starts_with("!<") && tag.ends_with(">")) {
    tag = tag.substr(2, tag.size() - 3);
  } else if (tag.starts_with("!!")) {
    tag = "tag:yaml.org,2002:" + tag.substr(2);
  }
  add(Kind::kTag, start, std::move(tag));
}

/// Line breaks and indentation up to the first text of a block scalar; returns the deepest indentation seen.
int YamlScanner::block_indentation(std::string& breaks) {
  int deepest = 0;
  while (peek() == ' ' || is_break(peek())) {
    if (take_break()) {
      breaks += '\n';
    } else {
      forward();
      deepest = std::max(deepest, place_.column);
    }
  }
  return deepest;
}

std::string YamlScanner::block_breaks(int indent) {
  std::string out;
  for (;;) {
    while (place_.column < indent && peek() == ' ') forward();
    if (!take_break()) return out;
    out += '\n';
  }
}

void YamlScanner::fetch_block_scalar(bool folded) {
  key_allowed_ = true;
  forget_key();
  const YamlPlace start = place_;
  forward();
  char chomping = '\0';
  int increment = 0;
  for (int i = 0; i < 2; ++i) {
    if (chomping == '\0' && is_one_of(peek(), "+-")) {
      chomping = peek();
      forward();
    } else if (increment == 0 && std::isdigit(static_cast<unsigned char>(peek()))) {
      increment = peek() - '0';
      if (increment == 0) fail("an indentation of 0");
      forward();
    }
  }
  if (!is_blank_or_end(peek())) fail("text behind the sign of a block of text");
  while (peek() == ' ') forward();
  if (peek() == '#')
    while (!is_break_or_end(peek())) forward();
  if (!at_end() && !take_break()) fail("text behind the sign of a block of text");

  const int least = std::max(indent_ + 1, 1);
  std::string breaks;
  int indent = least + increment - 1;
  if (increment == 0) {
    indent = std::max(least, block_indentation(breaks));
  } else {
    breaks = block_breaks(indent);
  }
  std::string out;
  bool broken = false;
  while (place_.column == indent && !at_end()) {
    out += breaks;
    const bool folds = folded && peek() != ' ' && peek() != '\t';
    size_t length = 0;
    while (!is_break_or_end(peek(length))) ++length;
    out += take(length);
    broken = take_break();
    breaks = block_breaks(indent);
    if (place_.column != indent || at_end()) break;
    if (folds && broken && peek() != ' ' && peek() != '\t') {
      if (breaks.empty()) out += ' ';
    } else if (broken) {
      out += '\n';
    }
  }
  if (chomping != '-' && broken) out += '\n';
  if (chomping == '+') out += breaks;
  add(Kind::kScalar, start, std::move(out));
}

void YamlScanner::escape(std::string& out) {
  forward();  // the backslash
  constexpr std::string_view kFrom = "0abt\tnvfre \"\\/NLP_";
  static constexpr uint32_t kTo[] = {0,  7,   8,   9,    9,   10,   11,     12,     13,
                                     27, ' ', '"', '\\', '/', 0x85, 0x2028, 0x2029, 0xA0};
  const char c = peek();
  if (const size_t at = kFrom.find(c); at != std::string_view::npos && !at_end()) {
    forward();
    append_utf8(out, kTo[at]);
    return;
  }
  const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (digits == 0) {
    if (!take_break()) fail("an unknown escape in double quotes");
    out += quoted_breaks();
    return;
  }
  forward();
  uint32_t code = 0;
  const std::string_view hex = text_.substr(pos_, digits);
  const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
  if (hex.size() != digits || error != std::errc() || end != hex.data() + digits)
    fail(fmt::format("an escape without its {} hexadecimal digits", digits));
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail("an escape that is no character");
  forward(digits);
  append_utf8(out, code);
}

/// Empty lines inside quotes.
std::string YamlScanner::quoted_breaks() {
  std::string out;
  for (;;) {
    if (at_document_marker()) fail("a document's end inside quotes");
    while (peek() == ' ' || peek() == '\t') forward();
    if (!take_break()) return out;
    out += '\n';
  }
}

/// Blanks inside quotes: as they are within a line, one space for a line break, one '\n' for each empty line.
std::string YamlScanner::quoted_gap() {
  size_t length = 0;
  while (peek(length) == ' ' || peek(length) == '\t') ++length;
  std::string blanks = take(length);
  if (at_end()) fail("quotes that do not end");
  if (!take_break()) return blanks;
  std::string breaks = quoted_breaks();
  return breaks.empty() ? " " : breaks;
}

void YamlScanner::fetch_quoted(bool double_quotes) {
  save_key();
  key_allowed_ = false;
  const YamlPlace start = place_;
  const char quote = double_quotes ? '"' : '\'';
  forward();
  std::string out;
  for (;;) {
    size_t length = 0;
    while (!is_blank_or_end(peek(length)) && peek(length) != quote && !(double_quotes && peek(length) == '\\'))
      ++length;
    out += take(length);
    if (!double_quotes && peek() == '\'' && peek(1) == '\'') {
      out += '\'';
      forward(2);
    } else if (peek() == quote) {
      forward();
      break;
    } else if (double_quotes && peek() == '\\') {
      escape(out);
    } else {
      out += quoted_gap();
    }
  }
  add(Kind::kScalar, start, std::move(out));
}

/// What stands between two words of an unquoted scalar; empty when the scalar ends here.
std::string YamlScanner::plain_gap() {
  size_t length = 0;
  while (peek(length) == ' ') ++length;
  std::string blanks = take(length);
  if (!take_break()) return blanks;
  key_allowed_ = true;
  std::string breaks;
  for (;;) {
    if (at_document_marker()) return {};
    if (peek() == ' ') {
      forward();
    } else if (take_break()) {
      breaks += '\n';
    } else {
      return breaks.empty() ? " " : breaks;
    }
  }
}

void YamlScanner::fetch_plain() {
  save_key();
  key_allowed_ = false;
  const YamlPlace start = place_;
  std::string out, gap;
  for (;;) {
    if (peek() == '#') break;
    size_t length = 0;
    for (;; ++length) {
      const char c = peek(length), next = peek(length + 1);
      if (is_blank_or_end(c)) break;
      if (c == ':' && (is_blank_or_end(next) || (flow_level_ > 0 && is_one_of(next, ",[]{}")))) break;
      if (flow_level_ > 0 && is_one_of(c, ",?[]{}")) break;
    }
    if (length == 0) break;
    key_allowed_ = false;
    out += gap;
    out += take(length);
    gap = plain_gap();
    if (gap.empty() || peek() == '#' || (flow_level_ == 0 && place_.column < indent_ + 1)) break;
  }
  add(Kind::kScalar, start, std::move(out), true);
}

}  // namespace viaduct::config
