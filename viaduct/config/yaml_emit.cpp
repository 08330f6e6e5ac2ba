// Writes a document with the choices of PyYAML's safe_dump: which strings are quoted and how, where long ones are
// folded, how collections are indented.
#include <algorithm>
#include <cmath>

#include "viaduct/config/yaml.h"
#include "viaduct/core/json.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

constexpr int kIndentStep = 2;

std::u32string code_points(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    char32_t c = length == 1 ? lead : lead & (0x7F >> length);
    for (int k = 1; k < length; ++k) c = (c << 6) | (static_cast<unsigned char>(text[i + k]) & 0x3F);
    out.push_back(c);
    i += length;
  }
  return out;
}

bool is_one_of(char32_t c, std::u32string_view set) { return set.find(c) != std::u32string_view::npos; }
bool is_break(char32_t c) { return is_one_of(c, U"\n\x85\u2028\u2029"); }
bool is_blank(char32_t c) { return is_break(c) || is_one_of(c, std::u32string_view(U"\0 \t\r", 4)); }

/// Which ways of writing a string give the same string back.
struct StringForms {
  bool plain = true;
  bool single_quoted = true;
  bool multiline = false;
};

/// True when some character means something to YAML outside quotes (in block context).
bool has_indicator(const std::u32string& text) {
  if (text.starts_with(U"---") || text.starts_with(U"...")) return true;
  for (size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    const bool before_blank = i + 1 == text.size() || is_blank(text[i + 1]);
    if (i == 0 && is_one_of(c, U"#,[]{}&*!|>'\"%@`")) return true;
    if (i == 0 && is_one_of(c, U"?-") && before_blank) return true;
    if (c == U':' && before_blank) return true;
    if (i > 0 && c == U'#' && is_blank(text[i - 1])) return true;
  }
  return false;
}

StringForms analyse(const std::u32string& text) {
  StringForms forms;
  if (text.empty()) return forms;
  bool special = false, space_before_break = false, break_before_space = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    if (is_break(c)) forms.multiline = true;
    if (c != U'\n' && (c < 0x20 || c > 0x7E)) special = true;
    if (i > 0 && text[i - 1] == U' ' && is_break(c)) space_before_break = true;
    if (i > 0 && is_break(text[i - 1]) && c == U' ') break_before_space = true;
  }
  const auto edge = [](char32_t c) { return c == U' ' || is_break(c); };
  forms.single_quoted = !special && !space_before_break && !break_before_space;
  forms.plain =
      forms.single_quoted && !forms.multiline && !edge(text.front()) && !edge(text.back()) && !has_indicator(text);
  return forms;
}

bool resolves_to_string(std::string_view text) {
  try {
    return resolve_plain_scalar(text).is_string();
  } catch (const UserError&) {
    return false;
  }
}

std::string scalar_text(const Yaml& value) {
  switch (value.kind()) {
    case Yaml::Kind::kNull: return "null";
    case Yaml::Kind::kBool: return value.as_bool() ? "true" : "false";
    case Yaml::Kind::kFloat: {
      const double number = value.as_double();
      if (std::isnan(number)) return ".nan";
      if (std::isinf(number)) return number < 0 ? "-.inf" : ".inf";
      std::string text = python_repr(number);
      // YAML 1.1 has no float without a point.
      if (text.find('.') == std::string::npos && text.find('e') != std::string::npos)
        text.insert(text.find('e'), ".0");
      return text;
    }
    default: return value.is_big_integer() ? value.big_digits() : std::to_string(value.as_int());
  }
}

class Emitter {
 public:
  explicit Emitter(const YamlStyle& style) : style_(style) {}

  std::string document(const Yaml& root) {
    node(root, 0, Place::kRoot);
    out_ += '\n';
    if (open_ended_) out_ += "...\n";
    return std::move(out_);
  }

 private:
  enum class Place { kRoot, kValue, kOther };

  /// `indent`: the column of the enclosing collection's entries.
  void node(const Yaml& value, int indent, Place place) {
    const int inner = place == Place::kRoot ? 0 : indent + kIndentStep;
    if (value.is_set()) tag("!!set");
    if ((value.is_mapping() || value.is_set()) && !value.members().empty()) {
      mapping(value, inner);
    } else if (value.is_sequence() && !value.items().empty()) {
      sequence(value, place == Place::kValue ? indent : inner);  // a list under a key is not indented
    } else {
      scalar(value, indent + kIndentStep, false, place == Place::kRoot);
    }
  }

  void mapping(const Yaml& value, int indent) {
    for (const Yaml::Member* member : ordered(value.members())) {
      start_entry(indent);
      if (is_simple_key(member->first)) {
        scalar(member->first, indent + kIndentStep, true, false);
        write(":");
        in_indicators_ = false;
        node(member->second, indent, Place::kValue);
      } else {
        indicator("?");
        node(member->first, indent, Place::kOther);
        start_entry(indent);
        indicator(":");
        node(member->second, indent, Place::kOther);
      }
    }
  }

  void sequence(const Yaml& value, int indent) {
    for (const Yaml& item : value.items()) {
      start_entry(indent);
      indicator("-");
      node(item, indent, Place::kOther);
    }
  }

  /// Python sorts keys when they can be compared with each other, else leaves them.
  std::vector<const Yaml::Member*> ordered(const std::vector<Yaml::Member>& members) const {
    std::vector<const Yaml::Member*> out;
    for (const Yaml::Member& member : members) out.push_back(&member);
    if (!style_.sort_keys) return out;
    const auto all = [&](auto test) {
      return std::all_of(members.begin(), members.end(), [&](const Yaml::Member& m) { return test(m.first); });
    };
    const auto number = [](const Yaml& key) { return key.is_bool() ? double(key.as_bool()) : key.as_double(); };
    if (all([](const Yaml& key) { return key.is_string(); })) {
      std::stable_sort(out.begin(), out.end(),
                       [](auto* a, auto* b) { return a->first.as_string() < b->first.as_string(); });
    } else if (all([](const Yaml& key) { return (key.is_int() && !key.is_big_integer()); })) {
      std::stable_sort(out.begin(), out.end(),
                       [](auto* a, auto* b) { return a->first.as_int() < b->first.as_int(); });
    } else if (all([](const Yaml& key) { return key.is_number() || key.is_bool(); })) {
      std::stable_sort(out.begin(), out.end(),
                       [&](auto* a, auto* b) { return number(a->first) < number(b->first); });
    }
    return out;
  }

  /// PyYAML's test for "key: value" on one line: below 128 characters together with the tag that it does not print.
  static bool is_simple_key(const Yaml& key) {
    constexpr size_t kLongest = 128;
    if (key.is_string()) {
      const std::u32string text = code_points(key.as_string());
      return !text.empty() && !analyse(text).multiline && text.size() + std::string_view("!!str").size() < kLongest;
    }
    const size_t tag = key.is_int() ? 5 : key.is_float() ? 7 : 6;
    return scalar_text(key).size() + tag < kLongest;
  }

  void scalar(const Yaml& value, int indent, bool key, bool root) {
    if (!value.is_scalar()) {
      separate();
      write(value.is_sequence() ? "[]" : "{}");
      return;
    }
    if (!value.is_string()) {
      separate();
      write(scalar_text(value));
      open_ended_ = root;
      return;
    }
    const std::string& text = value.as_string();
    VIADUCT_USER_CHECK(is_utf8(text), "{} is not UTF-8 and cannot be written as YAML", value.describe());
    const std::u32string points = code_points(text);
    const StringForms forms = analyse(points);
    separate();
    if (forms.plain && !points.empty() && resolves_to_string(text)) {
      plain(points, indent, !key);
      open_ended_ = root;
    } else if (forms.single_quoted && !(key && forms.multiline)) {
      single_quoted(points, indent, !key);
    } else {
      double_quoted(points, indent, !key);
    }
  }

  void plain(const std::u32string& text, int indent, bool fold) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find(U' ', at), text.size());
      write(text.substr(at, end - at));
      at = end < text.size() ? spaces(text, end, indent, fold && column_ > style_.width) : end;
    }
  }

  /// A run of spaces from `at`: a single one becomes a line break when `fold`. Returns its end.
  size_t spaces(const std::u32string& text, size_t at, int indent, bool fold) {
    const size_t end = std::min(text.find_first_not_of(U' ', at), text.size());
    if (fold && end == at + 1) {
      new_line(indent);
    } else {
      write(text.substr(at, end - at));
    }
    return end;
  }

  void single_quoted(const std::u32string& text, int indent, bool fold) {
    write("'");
    for (size_t at = 0; at < text.size();) {
      if (text[at] == U' ') {
        const size_t end = text.find_first_not_of(U' ', at);
        const bool inside = at != 0 && end != std::u32string::npos;
        at = spaces(text, at, indent, fold && inside && column_ > style_.width);
      } else if (text[at] == U'\n') {
        // A line break is written as an empty line: one break alone would be read as a space.
        const size_t end = std::min(text.find_first_not_of(U'\n', at), text.size());
        for (size_t i = at; i < end; ++i) out_ += '\n';
        new_line(indent);
        at = end;
      } else if (text[at] == U'\'') {
        write("''");
        ++at;
      } else {
        const size_t end = std::min(text.find_first_of(U" \n'", at), text.size());
        write(text.substr(at, end - at));
        at = end;
      }
    }
    write("'");
  }

  static bool needs_escape(char32_t c) { return c < 0x20 || c > 0x7E || c == U'"' || c == U'\\'; }

  static std::string escape(char32_t c) {
    constexpr std::u32string_view kFrom(U"\0\a\b\t\n\v\f\r\x1B\"\\\x85\xA0\u2028\u2029", 15);
    constexpr std::string_view kTo = "0abtnvfre\"\\N_LP";
    if (const size_t at = kFrom.find(c); at != std::u32string_view::npos) return {'\\', kTo[at]};
    if (c <= 0xFF) return fmt::format("\\x{:02X}", static_cast<uint32_t>(c));
    if (c <= 0xFFFF) return fmt::format("\\u{:04X}", static_cast<uint32_t>(c));
    return fmt::format("\\U{:08X}", static_cast<uint32_t>(c));
  }

  /// A long line ends in a backslash at a space or behind an escape; a space that begins the next line gets one
  /// too.
  void double_quoted(const std::u32string& text, int indent, bool fold) {
    write("\"");
    size_t pending = 0;  // characters from here to `i` are not written yet
    for (size_t i = 0; i < text.size(); ++i) {
      bool escaped = false;
      if (needs_escape(text[i])) {
        write(text.substr(pending, i - pending));
        write(escape(text[i]));
        pending = i + 1;
        escaped = true;
      }
      const size_t waiting = escaped ? 0 : i - pending;
      if (!fold || i == 0 || i + 1 >= text.size() || !(text[i] == U' ' || escaped || pending >= i)) continue;
      if (column_ + static_cast<int>(waiting) - (escaped ? 1 : 0) <= style_.width) continue;
      if (pending < i) {
        write(text.substr(pending, i - pending));
        pending = i;
      }
      write("\\");
      new_line(indent);
      if (text[pending] == U' ') write("\\");
    }
    write(text.substr(pending));
    write("\"");
  }

  void write(std::string_view text) {
    out_ += text;
    column_ += static_cast<int>(text.size());
  }
  void write(const std::u32string& text) {  // ASCII only
    for (char32_t c : text) out_ += static_cast<char>(c);
    column_ += static_cast<int>(text.size());
  }

  void new_line(int indent) {
    out_ += '\n';
    out_.append(static_cast<size_t>(indent), ' ');
    column_ = indent;
  }

  /// The place of a collection's next entry: behind the indicators that opened this line, or on a line of its own.
  void start_entry(int indent) {
    if (in_indicators_ && column_ <= indent) {
      out_.append(static_cast<size_t>(indent - column_), ' ');
      column_ = indent;
    } else {
      new_line(indent);
    }
    in_indicators_ = true;
  }

  void indicator(std::string_view text) { write(text); }

  void tag(std::string_view text) {
    separate();
    write(text);
  }

  /// The space between an indicator and a scalar.
  void separate() {
    if (!out_.empty() && out_.back() != ' ' && out_.back() != '\n') write(" ");
    in_indicators_ = false;
  }

  const YamlStyle& style_;
  std::string out_;
  int column_ = 0;
  bool in_indicators_ = true;  // nothing but indicators and spaces stands on this line
  bool open_ended_ = false;
};

}  // namespace

std::string emit_yaml(const Yaml& value, const YamlStyle& style) { return Emitter(style).document(value); }

}  // namespace viaduct::config
