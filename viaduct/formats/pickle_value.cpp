#include "viaduct/formats/pickle_value.h"

#include <array>
#include <bit>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"

namespace viaduct::formats {

std::string_view to_string(PickleValue::Kind kind) {
  static constexpr std::array<std::string_view, 14> kNames{
      "None",   "bool",   "int",   "int beyond 64 bits", "float", "str", "bytes", "list", "tuple", "set", "dict",
      "tensor", "global", "object"};
  return kNames[static_cast<size_t>(kind)];
}

PickleValue PickleValue::dict(std::vector<Member> members) {
  PickleValue value(Kind::kDict, {});
  value.members_ = std::move(members);
  return value;
}

PickleValue PickleValue::object(std::string class_name, std::vector<PickleValue> arguments, PickleValue state,
                                std::vector<PickleValue> items, std::vector<Member> members) {
  PickleValue value(Kind::kObject, std::move(class_name), std::move(items));
  value.members_ = std::move(members);
  value.object_ = std::make_shared<const ObjectParts>(ObjectParts{std::move(arguments), std::move(state)});
  return value;
}

bool PickleValue::as_bool() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kBool, "found {}, expected a bool", to_text(60));
  return int_ != 0;
}

int64_t PickleValue::as_int() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kInt || kind_ == Kind::kBool, "found {}, expected an int", to_text(60));
  return int_;
}

double PickleValue::as_double() const {
  if (kind_ == Kind::kFloat) return float_;
  VIADUCT_USER_CHECK(kind_ == Kind::kInt || kind_ == Kind::kBool, "found {}, expected a number", to_text(60));
  return static_cast<double>(int_);
}

const std::string& PickleValue::as_string() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kString, "found {}, expected a text", to_text(60));
  return text_;
}

const PickleTensor& PickleValue::as_tensor() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kTensor, "found {}, expected a tensor", to_text(60));
  return *tensor_;
}

const std::vector<PickleValue>& PickleValue::items() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kList || kind_ == Kind::kTuple || kind_ == Kind::kSet || kind_ == Kind::kObject,
                     "found {}, expected a list, tuple or set", to_text(60));
  return items_;
}

const std::vector<PickleValue::Member>& PickleValue::members() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kDict || kind_ == Kind::kObject, "found {}, expected a dict", to_text(60));
  return members_;
}

const std::vector<PickleValue>& PickleValue::arguments() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kObject, "found {}, expected an object", to_text(60));
  return object_->arguments;
}

const PickleValue& PickleValue::state() const {
  VIADUCT_USER_CHECK(kind_ == Kind::kObject, "found {}, expected an object", to_text(60));
  return object_->state;
}

const PickleValue* PickleValue::find(std::string_view key) const {
  if (kind_ == Kind::kObject && object_->state.is_dict())
    if (const PickleValue* attribute = object_->state.find(key)) return attribute;
  if (kind_ != Kind::kDict && kind_ != Kind::kObject) return nullptr;
  // The last one counts, as in Python.
  for (auto member = members_.rbegin(); member != members_.rend(); ++member)
    if (member->first.kind_ == Kind::kString && member->first.text_ == key) return &member->second;
  return nullptr;
}

const PickleValue& PickleValue::at(std::string_view key) const {
  const PickleValue* value = find(key);
  VIADUCT_USER_CHECK(value != nullptr, "'{}' is missing in {}", key, to_text(200));
  return *value;
}

void PickleValue::set_member(std::string_view key, PickleValue value) {
  VIADUCT_CHECK(kind_ == Kind::kDict, "'{}' set in a {}", key, to_string(kind_));
  for (Member& member : members_) {
    if (member.first.kind_ == Kind::kString && member.first.text_ == key) {
      member.second = std::move(value);
      return;
    }
  }
  members_.emplace_back(std::string(key), std::move(value));
}

void PickleValue::append_text(std::string& out, size_t limit, int depth) const {
  if (out.size() > limit || depth > 100) {
    if (!out.ends_with("...")) out += "...";
    return;
  }
  const auto list = [&](std::string_view open, const std::vector<PickleValue>& items, std::string_view close) {
    out += open;
    for (size_t i = 0; i < items.size() && out.size() <= limit; ++i) {
      if (i > 0) out += ", ";
      items[i].append_text(out, limit, depth + 1);
    }
    out += close;
  };
  const auto dict = [&] {
    out += "{";
    for (size_t i = 0; i < members_.size() && out.size() <= limit; ++i) {
      if (i > 0) out += ", ";
      members_[i].first.append_text(out, limit, depth + 1);
      out += ": ";
      members_[i].second.append_text(out, limit, depth + 1);
    }
    out += "}";
  };
  switch (kind_) {
    case Kind::kNone: out += "None"; break;
    case Kind::kBool: out += int_ ? "True" : "False"; break;
    case Kind::kInt: out += std::to_string(int_); break;
    case Kind::kBigInt: out += fmt::format("<int of {} bytes>", text_.size()); break;
    case Kind::kFloat: out += python_repr(float_); break;
    case Kind::kString: out += "'" + text_.substr(0, limit) + "'"; break;
    case Kind::kBytes: out += fmt::format("<{} bytes>", text_.size()); break;
    case Kind::kList: list("[", items_, "]"); break;
    case Kind::kTuple: list("(", items_, items_.size() == 1 ? ",)" : ")"); break;
    case Kind::kSet: list("{", items_, "}"); break;
    case Kind::kDict: dict(); break;
    case Kind::kTensor:
      out += fmt::format("tensor(dtype={}, shape={})", torch_name(tensor_->dtype), tensor_->shape);
      break;
    case Kind::kGlobal: out += text_; break;
    case Kind::kObject:
      out += text_;
      list("(", object_->arguments, ")");
      if (!object_->state.is_none()) object_->state.append_text(out, limit, depth + 1);
      if (!items_.empty()) list("[", items_, "]");
      if (!members_.empty()) dict();
      break;
  }
}

std::string PickleValue::to_text(size_t limit) const {
  std::string out;
  append_text(out, limit, 0);
  if (out.size() > limit + 3) out = out.substr(0, limit) + "...";
  return out;
}

bool operator==(const PickleValue& a, const PickleValue& b) {
  if (a.kind_ != b.kind_ || a.int_ != b.int_ || a.text_ != b.text_ || a.items_ != b.items_ ||
      a.members_ != b.members_)
    return false;
  if (std::bit_cast<uint64_t>(a.float_) != std::bit_cast<uint64_t>(b.float_)) return false;
  if (a.kind_ == PickleValue::Kind::kTensor)
    return a.tensor_->dtype == b.tensor_->dtype && a.tensor_->shape == b.tensor_->shape &&
           a.tensor_->bytes == b.tensor_->bytes;
  if (a.kind_ == PickleValue::Kind::kObject)
    return a.object_->arguments == b.object_->arguments && a.object_->state == b.object_->state;
  return true;
}

}  // namespace viaduct::formats
