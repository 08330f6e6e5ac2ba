// Yaml: a YAML document with PyYAML's types. What PyYAML's safe_load makes of a text is what parse makes of it, and
// emit_yaml writes the bytes that yaml.safe_dump writes (sorted keys, block style), so that files that Python wrote
// come back unchanged and files that we write mean the same to Python.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/core/file.h"

namespace viaduct::config {

/// A node with all that is in it. Copies are deep.
class Yaml {
 public:
  /// The types that PyYAML's safe_load gives.
  enum class Kind : uint8_t { kNull, kBool, kInt, kFloat, kString, kSequence, kMapping, kSet };
  /// Keys of a mapping are scalars: nearly always strings, sometimes integers (id2label).
  using Member = std::pair<Yaml, Yaml>;

  /// A scalar made of a C++ value: null, a bool, an integer of up to 64 bits, a float, a string in UTF-8.
  Yaml() = default;  // null
  Yaml(std::nullptr_t) {}
  template <std::same_as<bool> B>
  Yaml(B value) : kind_(Kind::kBool), bool_(value) {}
  template <std::integral I>
    requires(!std::same_as<I, bool>)
  Yaml(I value) : kind_(Kind::kInt), int_(static_cast<int64_t>(value)) {}
  Yaml(double value) : kind_(Kind::kFloat), float_(value) {}
  Yaml(const char* value) : Yaml(std::string(value)) {}
  Yaml(std::string value) : kind_(Kind::kString), text_(std::move(value)) {}
  Yaml(std::string_view value) : Yaml(std::string(value)) {}

  /// A list of these items.
  static Yaml sequence(std::vector<Yaml> items = {});
  /// A dict of these members, in this order; the caller sees to it that no key comes twice.
  static Yaml mapping(std::vector<Member> members = {});
  /// A Python set (!!set), written by adapters' configurations: members whose values are null.
  static Yaml set_of(std::vector<Member> members = {});
  /// An integer of any size, given as decimal digits with an optional minus.
  static Yaml big_integer(std::string digits);

  /// Which of PyYAML's types it has; a bool is no integer.
  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  bool is_bool() const { return kind_ == Kind::kBool; }
  bool is_int() const { return kind_ == Kind::kInt; }
  bool is_float() const { return kind_ == Kind::kFloat; }
  /// An integer or a float.
  bool is_number() const { return is_int() || is_float(); }

  /// Which of PyYAML's types it has; a bool is no integer.
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_sequence() const { return kind_ == Kind::kSequence; }
  bool is_mapping() const { return kind_ == Kind::kMapping; }
  bool is_set() const { return kind_ == Kind::kSet; }
  /// Neither a sequence nor a mapping nor a set.
  bool is_scalar() const { return kind_ < Kind::kSequence; }
  /// An integer that 64 bits cannot hold; as_int refuses it, as_double rounds it, emit_yaml writes it as it was.
  bool is_big_integer() const { return is_int() && !text_.empty(); }

  /// The decimal digits of a big integer, with its sign; empty for others.
  const std::string& big_digits() const { return text_; }

  /// The value as a C++ type; UserError that says what was found when it is another kind.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;  // of a float or an integer
  const std::string& as_string() const;
  const std::vector<Yaml>& items() const;  // of a sequence
  std::vector<Yaml>& items();
  const std::vector<Member>& members() const;  // of a mapping or a set, in order
  std::vector<Member>& members();

  /// Of a mapping: the value of a string key, or nullptr. Of anything else: nullptr.
  const Yaml* find(std::string_view key) const;
  Yaml* find(std::string_view key);
  bool contains(std::string_view key) const { return find(key) != nullptr; }
  /// Of a mapping: the value; UserError that names the key (and the nearest that is there) when absent.
  const Yaml& at(std::string_view key) const;
  /// Of a mapping: replaces the value in its place or appends it.
  Yaml& set(std::string_view key, Yaml value);
  /// Of a mapping: takes the member out; false when there was none.
  bool erase(std::string_view key);

  /// Equal kinds and values: 1 is not 1.0, NaN equals NaN; mappings regardless of order.
  friend bool operator==(const Yaml& a, const Yaml& b);

  /// "the string 'rope'", "the integer 3", "a mapping of 4 keys": for messages.
  std::string describe() const;

 private:
  [[noreturn]] void wrong_kind(std::string_view wanted) const;

  Kind kind_ = Kind::kNull;
  union {
    bool bool_;
    int64_t int_ = 0;
    double float_;
  };
  std::string text_;  // of a string; digits of a big integer
  std::vector<Yaml> items_;
  std::vector<Member> members_;
};

/// What a hostile text may cost. Nodes and bytes count what aliases and merge keys copy.
struct YamlLimits {
  size_t text_bytes = 2u << 20;
  size_t nodes = 300'000;
  size_t expanded_bytes = 16u << 20;  // of all strings after expansion
  int depth = 100;
};

/// The line, from 1, on which the key at a dotted path stands: "train.train_iters" -> 12. Of keys inside lists the
/// first with that path.
using YamlLines = std::map<std::string, int, std::less<>>;

/// Parses one document by PyYAML's safe_load rules (YAML 1.1: yes/no/on/off are booleans, 1e-05 is a
/// string, 1.0e-05 a float, 0o17 a string, 017 the integer 15, quoted scalars strings, anchors, aliases and merge
/// keys). Stricter than PyYAML: a repeated key, a date, a key that is not a scalar, an alias to its own ancestor
/// and a tag outside YAML's core are refused, and so is what exceeds `limits`. UserError "<origin>: <what> at line
/// L, column C". An empty text is null. `lines`, when given, gets the line of every key.
Yaml parse_yaml(std::string_view text, std::string_view origin, const YamlLimits& limits = {},
                YamlLines* lines = nullptr);
/// parse_yaml of a file, whose path is the origin.
Yaml read_yaml_file(const Path& path, const YamlLimits& limits = {}, YamlLines* lines = nullptr);

/// The type that PyYAML gives to an unquoted scalar; UserError (without place) for a date or a malformed integer.
Yaml resolve_plain_scalar(std::string_view text);

/// How yaml.safe_dump was called.
struct YamlStyle {
  bool sort_keys = true;
  int width = 80;  // where PyYAML starts to fold long strings
};

/// What yaml.safe_dump(value, default_flow_style=False, sort_keys=style.sort_keys, width=style.width) writes.
std::string emit_yaml(const Yaml& value, const YamlStyle& style = {});

}  // namespace viaduct::config
