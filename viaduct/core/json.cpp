#include "viaduct/core/json.h"

#include <fmt/format.h>
#define RAPIDJSON_HAS_STDSTRING 1
#define RAPIDJSON_NOMEMBERITERATORCLASS 1
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "viaduct/core/strings.h"

namespace viaduct {

std::string python_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  std::string_view text(buffer, result.ptr - buffer);
  const size_t e = text.find('e');
  std::string digits;
  for (char c : text.substr(0, e))
    if (c != '-' && c != '.') digits += c;
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  const std::string sign = text[0] == '-' ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    std::string mantissa = digits.substr(0, 1);
    if (count > 1) mantissa += "." + digits.substr(1);
    return fmt::format("{}{}e{}{:02}", sign, mantissa, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return sign + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  return sign + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

namespace {
std::string json_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return python_repr(value);
}

std::string_view kind_name(Json::Kind kind) {
  static constexpr std::string_view kNames[] = {"null",     "a boolean", "a number",
                                                "a string", "an array",  "an object"};
  return kNames[static_cast<int>(kind)];
}
}  // namespace

Json::Json(double value) : kind_(Kind::kNumber), text_(json_number(value)) {}

Json Json::array(std::vector<Json> items) {
  Json json;
  json.kind_ = Kind::kArray;
  json.items_ = std::move(items);
  return json;
}

Json Json::object(std::vector<Member> members) {
  Json json;
  json.kind_ = Kind::kObject;
  json.members_ = std::move(members);
  return json;
}

Json Json::number_text(std::string text) {
  Json json;
  json.kind_ = Kind::kNumber;
  json.text_ = std::move(text);
  return json;
}

// Receives RapidJSON's events and builds the document. Numbers arrive as text.
struct JsonBuilder {
  static constexpr size_t kMaxDepth = 256;
  std::vector<Json> stack;
  std::vector<std::string> keys;
  Json root;
  std::string problem;

  bool add(Json value) {
    if (stack.empty()) {
      root = std::move(value);
    } else if (stack.back().kind_ == Json::Kind::kArray) {
      stack.back().items_.push_back(std::move(value));
    } else {
      stack.back().members_.emplace_back(std::move(keys.back()), std::move(value));
      keys.pop_back();
    }
    return true;
  }
  bool open(Json value) {
    if (stack.size() >= kMaxDepth) {
      problem = fmt::format("nested deeper than {}", kMaxDepth);
      return false;
    }
    stack.push_back(std::move(value));
    return true;
  }
  bool shut() {
    Json value = std::move(stack.back());
    stack.pop_back();
    std::unordered_set<std::string_view> seen;
    for (const Json::Member& member : value.members_) {
      if (!seen.insert(member.first).second) {
        problem = fmt::format("the key \"{}\" stands twice in one object", member.first);
        return false;
      }
    }
    return add(std::move(value));
  }

  bool Null() { return add(Json()); }
  bool Bool(bool value) { return add(Json(value)); }
  bool Int(int value) { return add(Json(int64_t{value})); }
  bool Uint(unsigned value) { return add(Json(int64_t{value})); }
  bool Int64(int64_t value) { return add(Json(value)); }
  bool Uint64(uint64_t value) { return add(Json::number_text(std::to_string(value))); }
  bool Double(double value) { return add(Json(value)); }
  bool RawNumber(const char* text, rapidjson::SizeType size, bool) {
    return add(Json::number_text(std::string(text, size)));
  }
  // An escaped half of a surrogate pair is ASCII in the text and no character.
  bool is_text(const char* text, rapidjson::SizeType size) {
    if (is_utf8({text, size})) return true;
    problem = "half of a surrogate pair";
    return false;
  }
  bool String(const char* text, rapidjson::SizeType size, bool) {
    return is_text(text, size) && add(Json(std::string(text, size)));
  }
  bool Key(const char* text, rapidjson::SizeType size, bool) {
    if (!is_text(text, size)) return false;
    keys.emplace_back(text, size);
    return true;
  }
  bool StartObject() { return open(Json::object()); }
  bool EndObject(rapidjson::SizeType) { return shut(); }
  bool StartArray() { return open(Json::array()); }
  bool EndArray(rapidjson::SizeType) { return shut(); }
};

Json Json::parse(std::string_view text, std::string_view origin) {
  VIADUCT_USER_CHECK(is_utf8(text), "{}: not UTF-8 text, so not JSON", origin);
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  rapidjson::MemoryStream stream(text.data(), text.size());
  JsonBuilder builder;
  rapidjson::Reader reader;
  // Iterative: hostile nesting must not use the machine's stack.
  constexpr unsigned kFlags = rapidjson::kParseNumbersAsStringsFlag | rapidjson::kParseNanAndInfFlag |
                              rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag;
  const rapidjson::ParseResult result = reader.Parse<kFlags>(stream, builder);
  VIADUCT_USER_CHECK(!result.IsError(), "{}: not JSON: {} at byte {}", origin,
                     builder.problem.empty() ? rapidjson::GetParseError_En(result.Code()) : builder.problem,
                     result.Offset());
  return std::move(builder.root);
}

bool Json::is_integer() const {
  return kind_ == Kind::kNumber && text_.find_first_not_of("-0123456789") == std::string::npos;
}

void Json::wrong_kind(std::string_view wanted) const {
  throw UserError(fmt::format("{} wanted, {} found: {}", wanted, kind_name(kind_), dump().substr(0, 80)));
}

bool Json::as_bool() const {
  if (kind_ != Kind::kBool) wrong_kind("true or false");
  return bool_;
}

int64_t Json::as_int() const {
  if (kind_ != Kind::kNumber) wrong_kind("an integer");
  int64_t value = 0;
  const auto result = std::from_chars(text_.data(), text_.data() + text_.size(), value);
  if (result.ec == std::errc() && result.ptr == text_.data() + text_.size()) return value;
  const double real = as_double();
  if (!(std::fabs(real) < 9e15) || real != std::floor(real)) wrong_kind("an integer");
  return static_cast<int64_t>(real);
}

double Json::as_double() const {
  if (kind_ != Kind::kNumber) wrong_kind("a number");
  if (text_ == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (text_ == "Infinity" || text_ == "Inf") return HUGE_VAL;
  if (text_ == "-Infinity" || text_ == "-Inf") return -HUGE_VAL;
  double value = 0;
  const auto result = std::from_chars(text_.data(), text_.data() + text_.size(), value);
  if (result.ec == std::errc::result_out_of_range) return std::strtod(text_.c_str(), nullptr);
  if (result.ec != std::errc()) wrong_kind("a number");
  return value;
}

const std::string& Json::as_string() const {
  if (kind_ != Kind::kString) wrong_kind("a string");
  return text_;
}

const std::string& Json::number_text() const {
  if (kind_ != Kind::kNumber) wrong_kind("a number");
  return text_;
}

const std::vector<Json>& Json::items() const {
  if (kind_ != Kind::kArray) wrong_kind("an array");
  return items_;
}

std::vector<Json>& Json::items() {
  if (kind_ != Kind::kArray) wrong_kind("an array");
  return items_;
}

const std::vector<Json::Member>& Json::members() const {
  if (kind_ != Kind::kObject) wrong_kind("an object");
  return members_;
}

const Json* Json::find(std::string_view key) const {
  for (const Member& member : members())
    if (member.first == key) return &member.second;
  return nullptr;
}

Json* Json::find(std::string_view key) { return const_cast<Json*>(std::as_const(*this).find(key)); }

const Json& Json::at(std::string_view key) const {
  const Json* value = find(key);
  VIADUCT_USER_CHECK(value, "the key \"{}\" is missing", key);
  return *value;
}

Json& Json::set(std::string_view key, Json value) {
  if (Json* old = find(key)) return *old = std::move(value);
  return members_.emplace_back(std::string(key), std::move(value)).second;
}

bool Json::erase(std::string_view key) {
  for (auto it = members_.begin(); it != members_.end(); ++it) {
    if (it->first != key) continue;
    members_.erase(it);
    return true;
  }
  return false;
}

namespace {
void dump_string(std::string& out, const std::string& text) {
  out += '"';
  for (char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<int>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}
}  // namespace

void Json::dump_to(std::string& out, int indent, int depth) const {
  const auto new_line = [&](int level) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(indent) * level, ' ');
  };
  const char* between = indent < 0 ? ", " : ",";
  switch (kind_) {
    case Kind::kNull: out += "null"; return;
    case Kind::kBool: out += bool_ ? "true" : "false"; return;
    case Kind::kNumber: out += text_; return;
    case Kind::kString: dump_string(out, text_); return;
    case Kind::kArray:
      out += '[';
      for (size_t i = 0; i < items_.size(); ++i) {
        if (i) out += between;
        new_line(depth + 1);
        items_[i].dump_to(out, indent, depth + 1);
      }
      if (!items_.empty()) new_line(depth);
      out += ']';
      return;
    case Kind::kObject:
      out += '{';
      for (size_t i = 0; i < members_.size(); ++i) {
        if (i) out += between;
        new_line(depth + 1);
        dump_string(out, members_[i].first);
        out += ": ";
        members_[i].second.dump_to(out, indent, depth + 1);
      }
      if (!members_.empty()) new_line(depth);
      out += '}';
      return;
  }
}

std::string Json::dump(int indent) const {
  std::string out;
  dump_to(out, indent, 0);
  return out;
}

bool operator==(const Json& a, const Json& b) {
  if (a.kind_ != b.kind_) return false;
  switch (a.kind_) {
    case Json::Kind::kNull: return true;
    case Json::Kind::kBool: return a.bool_ == b.bool_;
    case Json::Kind::kNumber:
      if (a.text_ == b.text_) return true;
      return a.is_integer() == b.is_integer() && a.as_double() == b.as_double();
    case Json::Kind::kString: return a.text_ == b.text_;
    case Json::Kind::kArray: return a.items_ == b.items_;
    case Json::Kind::kObject:
      if (a.members_.size() != b.members_.size()) return false;
      for (const Json::Member& member : a.members_) {
        const Json* other = b.find(member.first);
        if (!other || !(*other == member.second)) return false;
      }
      return true;
  }
  return false;
}

}  // namespace viaduct
