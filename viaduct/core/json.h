// Json: a lossless JSON document. Key order, the text of numbers and unknown keys survive a read and a write;
// Infinity, -Infinity and NaN (as Python writes them) are numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/error.h"

namespace viaduct {

/// A value of any kind, with all that is in it. Copies are deep.
class Json {
 public:
  /// The kinds of values that JSON has.
  enum class Kind : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };
  /// Key and value of an object.
  using Member = std::pair<std::string, Json>;

  /// A value made of a C++ value: null, true or false, an integer.
  Json() = default;  // null
  Json(std::nullptr_t) {}
  Json(bool value) : kind_(Kind::kBool), bool_(value) {}
  Json(int value) : Json(static_cast<int64_t>(value)) {}
  Json(int64_t value) : kind_(Kind::kNumber), text_(std::to_string(value)) {}
  /// Written as Python's json does: shortest text that reads back equal, with a point or an exponent ("1e-05",
  /// "1.0").
  Json(double value);

  /// A string, which must be UTF-8.
  Json(const char* value) : Json(std::string(value)) {}
  Json(std::string value) : kind_(Kind::kString), text_(std::move(value)) {}
  Json(std::string_view value) : Json(std::string(value)) {}

  /// An array of these items, in this order.
  static Json array(std::vector<Json> items = {});
  /// An object with these members, in this order; the caller sees to it that no key comes twice.
  static Json object(std::vector<Member> members = {});
  /// A number kept as the text it is written with.
  static Json number_text(std::string text);

  /// Parses a whole document. UserError "<origin>: <what> at byte <offset>" for anything that is not JSON (the
  /// three words above excepted), is nested deeper than 256, has a repeated key or is not UTF-8.
  static Json parse(std::string_view text, std::string_view origin);

  /// What kind of value it is.
  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  bool is_bool() const { return kind_ == Kind::kBool; }
  bool is_number() const { return kind_ == Kind::kNumber; }
  /// A number written without point, exponent or word.
  bool is_integer() const;

  /// What kind of value it is.
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_array() const { return kind_ == Kind::kArray; }
  bool is_object() const { return kind_ == Kind::kObject; }

  /// The value as a C++ type; UserError that says what was found when it is another kind or does not fit.
  bool as_bool() const;
  int64_t as_int() const;  // also accepts "3.0"
  double as_double() const;
  const std::string& as_string() const;
  const std::string& number_text() const;
  const std::vector<Json>& items() const;  // of an array
  std::vector<Json>& items();
  const std::vector<Member>& members() const;  // of an object, in order

  /// Of an object: the member's value, or nullptr.
  const Json* find(std::string_view key) const;
  Json* find(std::string_view key);
  bool contains(std::string_view key) const { return find(key) != nullptr; }
  /// Of an object: the member's value; UserError naming the key when absent.
  const Json& at(std::string_view key) const;
  /// Of an object: replaces the member in its place or appends it.
  Json& set(std::string_view key, Json value);
  /// Of an object: takes the member out; false when there was none.
  bool erase(std::string_view key);

  /// Indent < 0: one line with ", " and ": " between; else as Python's json.dumps(indent=..., ensure_ascii=False).
  std::string dump(int indent = -1) const;

  /// Equal kinds and values; numbers by value (1.0 equals 1e0, not 1), objects regardless of order.
  friend bool operator==(const Json& a, const Json& b);

 private:
  friend struct JsonBuilder;
  void dump_to(std::string& out, int indent, int depth) const;
  [[noreturn]] void wrong_kind(std::string_view wanted) const;

  Kind kind_ = Kind::kNull;
  bool bool_ = false;
  std::string text_;  // string value, or number text
  std::vector<Json> items_;
  std::vector<Member> members_;
};

/// Shortest decimal text of a double that reads back equal, as Python's repr writes it ("1e-05", "0.02", "inf").
std::string python_repr(double value);

}  // namespace viaduct
