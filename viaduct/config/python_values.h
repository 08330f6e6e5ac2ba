// What upstream's YAML writes for Python values that YAML has no word for: functions, partials, enums, dtypes,
// objects.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "viaduct/config/yaml.h"
#include "viaduct/core/dtype.h"

namespace viaduct::config {

/// A Python number in a field annotated float: an integer stays an integer (written 100, not 100.0). Reads as a
/// double.
class Number {
 public:
  constexpr Number() = default;
  /// Python's int.
  template <std::integral I>
    requires(!std::same_as<I, bool>)
  constexpr Number(I value) : integer_(static_cast<int64_t>(value)), is_integer_(true) {}
  /// Python's float.
  constexpr Number(double value) : float_(value) {}

  /// Is it an int in Python?
  constexpr bool is_integer() const { return is_integer_; }
  /// The int; 0 for a float.
  constexpr int64_t integer() const { return integer_; }
  /// The number, rounded when it is an int beyond 53 bits.
  constexpr operator double() const { return is_integer_ ? static_cast<double>(integer_) : float_; }

 private:
  double float_ = 0.0;
  int64_t integer_ = 0;
  bool is_integer_ = false;
};

/// A torch dtype: {_call_: false, _target_: torch.bfloat16}.
using TorchDtype = DType;

/// A function or class: {_call_: false, _target_: torch.nn.functional.silu}.
struct FunctionRef {
  std::string target;
  bool operator==(const FunctionRef&) const = default;
};

/// functools.partial: {_args_: [], _partial_: true, _target_: torch.nn.init.normal_, mean: 0.0, std: 0.02}.
struct Partial {
  std::string target;
  std::vector<Yaml> args;
  Yaml keywords = Yaml::mapping();
  bool operator==(const Partial&) const = default;
};

/// torch.nn.init.normal_ with mean 0 and this standard deviation.
Partial normal_init(double std);

/// Any other object: a mapping with a _target_, kept as it is.
struct ObjectNode {
  Yaml node = Yaml::mapping();
  bool operator==(const ObjectNode&) const = default;
};

/// A field that Python can call.
using Callable = std::variant<FunctionRef, Partial, ObjectNode>;
/// The _target_ of a callable: "torch.nn.functional.silu".
std::string_view target_of(const Callable& callable);
/// The last word of a dotted path: "silu".
std::string_view last_word(std::string_view target);

/// An enum member: {_args_: [5], _call_: true, _name_: auto, _target_: megatron...AttnBackend}. Older releases
/// write no _name_.
struct PyEnum {
  Yaml value;
  std::optional<std::string> name;
  std::string target;
  bool operator==(const PyEnum&) const = default;
};

/// Types of fields: lists, and what is one value or a list of them.
using Ints = std::vector<int64_t>;
using Numbers = std::vector<Number>;
using Strings = std::vector<std::string>;
using IntOrInts = std::variant<int64_t, Ints>;
using NumberOrNumbers = std::variant<Number, Numbers>;
using StringOrStrings = std::variant<std::string, Strings>;

/// Types of fields that may be None.
using OptBool = std::optional<bool>;
using OptInt = std::optional<int64_t>;
using OptNumber = std::optional<Number>;
using OptString = std::optional<std::string>;
using OptDtype = std::optional<TorchDtype>;
using OptEnum = std::optional<PyEnum>;
using OptCallable = std::optional<Callable>;
using OptInts = std::optional<Ints>;
using OptStrings = std::optional<Strings>;
using OptIntOrInts = std::optional<IntOrInts>;
using OptStringOrStrings = std::optional<StringOrStrings>;

/// How a C++ type stands in YAML. accepts() says whether a node is one; decode() may only be called then.
template <class T>
struct Codec;

#define VIADUCT_CODEC(type)                \
  template <>                              \
  struct Codec<type> {                     \
    static bool accepts(const Yaml& node); \
    static type decode(const Yaml& node);  \
    static Yaml encode(const type& value); \
    static std::string expects();          \
  }
VIADUCT_CODEC(bool);
VIADUCT_CODEC(int64_t);
VIADUCT_CODEC(Number);
VIADUCT_CODEC(std::string);
VIADUCT_CODEC(TorchDtype);
VIADUCT_CODEC(FunctionRef);
VIADUCT_CODEC(Partial);
VIADUCT_CODEC(ObjectNode);
VIADUCT_CODEC(PyEnum);
VIADUCT_CODEC(Yaml);  // anything
#undef VIADUCT_CODEC

/// Codec<T>::decode, for types with parts of their own with a place for their messages: "run.yaml: dataset.source".
template <class T>
T decode_part(const Yaml& node, std::string_view where) {
  if constexpr (requires { Codec<T>::decode_at(node, where); }) {
    return Codec<T>::decode_at(node, where);
  } else {
    return Codec<T>::decode(node);
  }
}

/// Can a variant tell by a node's class whether it is a T?
template <class T>
concept ToldByClass = requires(const Yaml& node) { Codec<T>::is_class_of(node); };

template <class T>
struct Codec<std::vector<T>> {
  static bool accepts(const Yaml& node) {
    if (!node.is_sequence()) return false;
    for (const Yaml& item : node.items())
      if (!Codec<T>::accepts(item)) return false;
    return true;
  }
  static std::vector<T> decode_at(const Yaml& node, std::string_view where) {
    std::vector<T> out;
    for (const Yaml& item : node.items()) out.push_back(decode_part<T>(item, where));
    return out;
  }
  static Yaml encode(const std::vector<T>& value) {
    Yaml out = Yaml::sequence();
    for (const T& item : value) out.items().push_back(Codec<T>::encode(item));
    return out;
  }
  static std::string expects() { return "a list, each entry " + Codec<T>::expects(); }
};

template <class T>
struct Codec<std::optional<T>> {
  static bool accepts(const Yaml& node) { return node.is_null() || Codec<T>::accepts(node); }
  static std::optional<T> decode_at(const Yaml& node, std::string_view where) {
    if (node.is_null()) return std::nullopt;
    return decode_part<T>(node, where);
  }
  static Yaml encode(const std::optional<T>& value) { return value ? Codec<T>::encode(*value) : Yaml(); }
  static std::string expects() { return Codec<T>::expects() + " or null"; }
};

template <class... Ts>
struct Codec<std::variant<Ts...>> {
  using Value = std::variant<Ts...>;
  static bool accepts(const Yaml& node) { return (is_one<Ts>(node) || ...); }
  static Value decode_at(const Yaml& node, std::string_view where) {
    std::optional<Value> out;
    ((is_one<Ts>(node) && (out = Value(decode_part<Ts>(node, where)), true)) || ...);
    VIADUCT_CHECK(out.has_value());
    return *out;
  }
  static Yaml encode(const Value& value) {
    return std::visit([](const auto& v) { return Codec<std::decay_t<decltype(v)>>::encode(v); }, value);
  }
  static std::string expects() {
    std::string out;
    ((out += (out.empty() ? "" : " or ") + Codec<Ts>::expects()), ...);
    return out;
  }

 private:
  template <class T>
  static bool is_one(const Yaml& node) {
    if constexpr (ToldByClass<T>) {
      return Codec<T>::is_class_of(node);
    } else {
      return Codec<T>::accepts(node);
    }
  }
};

/// The node as a T; UserError "<where>: expected ..., found ..." when it is something else.
template <class T>
T decode(const Yaml& node, std::string_view where);

/// UserError "<where>: expected ..., found ...".
[[noreturn]] void throw_wrong_type(std::string_view where, const std::string& expected, const Yaml& found);

template <class T>
T decode(const Yaml& node, std::string_view where) {
  if (!Codec<T>::accepts(node)) throw_wrong_type(where, Codec<T>::expects(), node);
  return decode_part<T>(node, where);
}

}  // namespace viaduct::config
