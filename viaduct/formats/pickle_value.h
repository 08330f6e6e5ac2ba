// PickleValue: a Python object as plain data, for small object trees (a checkpoint's common state, train_state.pt).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/dtype.h"
#include "viaduct/core/shape.h"

namespace viaduct::formats {

/// A tensor with its elements, row-major.
struct PickleTensor {
  DType dtype{};
  Shape shape;
  std::string bytes;
};

/// A Python value with all that is in it; copies share tensors and the parts of objects.
class PickleValue {
 public:
  /// What Python calls its type.
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kBigInt,  // beyond 64 bits: text() holds its little-endian two's complement bytes
    kFloat,
    kString,
    kBytes,
    kList,
    kTuple,
    kSet,
    kDict,
    kTensor,
    kGlobal,  // a class or function by name, "torch.bfloat16"; never looked up or called
    kObject,  // what calling a global would give: class name, arguments, state; never called
  };
  /// Key and value of a dict.
  using Member = std::pair<PickleValue, PickleValue>;

  /// A value made of a C++ value: None, a bool, an int, a float, a str, a tensor.
  PickleValue() = default;  // None
  PickleValue(std::nullptr_t) {}
  PickleValue(bool value) : kind_(Kind::kBool), int_(value) {}
  PickleValue(int value) : kind_(Kind::kInt), int_(value) {}
  PickleValue(int64_t value) : kind_(Kind::kInt), int_(value) {}
  PickleValue(double value) : kind_(Kind::kFloat), float_(value) {}
  PickleValue(const char* value) : PickleValue(std::string(value)) {}
  PickleValue(std::string value) : kind_(Kind::kString), text_(std::move(value)) {}
  PickleValue(PickleTensor value)
      : kind_(Kind::kTensor), tensor_(std::make_shared<const PickleTensor>(std::move(value))) {}

  /// A value of the kind that the function is called by; a big_int's bytes are two's complement, a global is
  /// "module.name".
  static PickleValue big_int(std::string little_endian) { return {Kind::kBigInt, std::move(little_endian)}; }
  static PickleValue bytes(std::string value) { return {Kind::kBytes, std::move(value)}; }
  static PickleValue global(std::string dotted_name) { return {Kind::kGlobal, std::move(dotted_name)}; }
  static PickleValue list(std::vector<PickleValue> items = {}) { return {Kind::kList, {}, std::move(items)}; }
  static PickleValue tuple(std::vector<PickleValue> items = {}) { return {Kind::kTuple, {}, std::move(items)}; }
  static PickleValue set(std::vector<PickleValue> items = {}) { return {Kind::kSet, {}, std::move(items)}; }
  static PickleValue dict(std::vector<Member> members = {});
  /// What calling a class gave: `members` are what was put into it item by item (a dict subclass), `items` what was
  /// appended (a list subclass).
  static PickleValue object(std::string class_name, std::vector<PickleValue> arguments, PickleValue state,
                            std::vector<PickleValue> items, std::vector<Member> members);

  /// Which Python type it stands for.
  Kind kind() const { return kind_; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_dict() const { return kind_ == Kind::kDict; }
  bool is_tensor() const { return kind_ == Kind::kTensor; }
  bool is_object() const { return kind_ == Kind::kObject; }

  /// The value as a C++ type; UserError that says what was found when it is another kind. as_int takes bool too,
  /// as_double any number.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;
  const PickleTensor& as_tensor() const;
  /// Bytes of kBytes, kString and kBigInt; the name of kGlobal; the class name of kObject ("argparse.Namespace").
  const std::string& text() const { return text_; }
  /// Of a list, tuple or set: its items. Of an object: what was appended to it.
  const std::vector<PickleValue>& items() const;
  /// Of a dict, in order. Of an object: what was put into it by key.
  const std::vector<Member>& members() const;
  /// Of an object: what its class was called with.
  const std::vector<PickleValue>& arguments() const;
  /// Of an object: what __setstate__ or __dict__ got, most often a dict of attributes; None when nothing.
  const PickleValue& state() const;

  /// The value of a text key of a dict, or of an object's attribute (its state is a dict); nullptr when absent.
  const PickleValue* find(std::string_view key) const;
  /// As find; UserError naming the key when absent.
  const PickleValue& at(std::string_view key) const;
  /// Of a dict: replaces or appends.
  void set_member(std::string_view key, PickleValue value);

  /// As Python would show it, for messages and `inspect`; long things are cut at about `limit` bytes.
  std::string to_text(size_t limit = 2000) const;

  /// Equal kinds and contents; dicts in order.
  friend bool operator==(const PickleValue& a, const PickleValue& b);

 private:
  struct ObjectParts;
  PickleValue(Kind kind, std::string text, std::vector<PickleValue> items = {})
      : kind_(kind), text_(std::move(text)), items_(std::move(items)) {}
  void append_text(std::string& out, size_t limit, int depth) const;

  Kind kind_ = Kind::kNone;
  int64_t int_ = 0;
  double float_ = 0;
  std::string text_;
  std::vector<PickleValue> items_;
  std::vector<Member> members_;
  std::shared_ptr<const PickleTensor> tensor_;
  std::shared_ptr<const ObjectParts> object_;
};

/// What objects have and other values have not.
struct PickleValue::ObjectParts {
  std::vector<PickleValue> arguments;
  PickleValue state;
};

/// What messages call a kind: "dict", "int beyond 64 bits".
std::string_view to_string(PickleValue::Kind kind);

}  // namespace viaduct::formats
