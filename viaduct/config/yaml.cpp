#include "viaduct/config/yaml.h"

#include <cmath>
#include <optional>

#include "viaduct/core/json.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {

Yaml Yaml::sequence(std::vector<Yaml> items) {
  Yaml out;
  out.kind_ = Kind::kSequence;
  out.items_ = std::move(items);
  return out;
}

Yaml Yaml::mapping(std::vector<Member> members) {
  Yaml out;
  out.kind_ = Kind::kMapping;
  out.members_ = std::move(members);
  return out;
}

Yaml Yaml::set_of(std::vector<Member> members) {
  Yaml out = mapping(std::move(members));
  out.kind_ = Kind::kSet;
  return out;
}

Yaml Yaml::big_integer(std::string digits) {
  Yaml out;
  out.kind_ = Kind::kInt;
  out.text_ = std::move(digits);
  return out;
}

namespace {

std::string shortened(std::string_view text) {
  constexpr size_t kShown = 60;
  if (text.size() <= kShown) return std::string(text);
  size_t end = kShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return std::string(text.substr(0, end)) + "...";
}

}  // namespace

std::string Yaml::describe() const {
  switch (kind_) {
    case Kind::kNull: return "null";
    case Kind::kBool: return bool_ ? "the boolean true" : "the boolean false";
    case Kind::kInt: return "the integer " + (text_.empty() ? std::to_string(int_) : shortened(text_));
    case Kind::kFloat: return "the float " + python_repr(float_);
    case Kind::kString: return "the string '" + shortened(text_) + "'";
    case Kind::kSequence: return fmt::format("a list of {} entries", items_.size());
    case Kind::kMapping: return fmt::format("a mapping of {} keys", members_.size());
    case Kind::kSet: return fmt::format("a set of {} entries", members_.size());
  }
  return {};
}

void Yaml::wrong_kind(std::string_view wanted) const {
  throw UserError(fmt::format("expected {}, found {}", wanted, describe()));
}

bool Yaml::as_bool() const {
  if (!is_bool()) wrong_kind("a boolean");
  return bool_;
}

int64_t Yaml::as_int() const {
  if (!is_int() || is_big_integer()) wrong_kind("a 64-bit integer");
  return int_;
}

double Yaml::as_double() const {
  if (is_float()) return float_;
  if (!is_int()) wrong_kind("a number");
  return text_.empty() ? static_cast<double>(int_) : std::strtod(text_.c_str(), nullptr);
}

const std::string& Yaml::as_string() const {
  if (!is_string()) wrong_kind("a string");
  return text_;
}

const std::vector<Yaml>& Yaml::items() const {
  if (!is_sequence()) wrong_kind("a list");
  return items_;
}

std::vector<Yaml>& Yaml::items() {
  if (!is_sequence()) wrong_kind("a list");
  return items_;
}

const std::vector<Yaml::Member>& Yaml::members() const {
  if (!is_mapping() && !is_set()) wrong_kind("a mapping");
  return members_;
}

std::vector<Yaml::Member>& Yaml::members() {
  if (!is_mapping() && !is_set()) wrong_kind("a mapping");
  return members_;
}

const Yaml* Yaml::find(std::string_view key) const {
  if (!is_mapping()) return nullptr;
  for (const Member& member : members_)
    if (member.first.is_string() && member.first.text_ == key) return &member.second;
  return nullptr;
}

Yaml* Yaml::find(std::string_view key) { return const_cast<Yaml*>(std::as_const(*this).find(key)); }

const Yaml& Yaml::at(std::string_view key) const {
  if (!is_mapping()) wrong_kind(fmt::format("a mapping with the key '{}'", key));
  if (const Yaml* value = find(key)) return *value;
  std::vector<std::string> known;
  for (const Member& member : members_)
    if (member.first.is_string()) known.push_back(member.first.text_);
  const std::optional<std::string> near = nearest(key, known);
  throw UserError(fmt::format("the key '{}' is missing{}", key,
                              near ? fmt::format("; there is a '{}', did you mean that?", *near) : ""));
}

Yaml& Yaml::set(std::string_view key, Yaml value) {
  if (!is_mapping()) wrong_kind("a mapping");
  if (Yaml* there = find(key)) return *there = std::move(value);
  return members_.emplace_back(Yaml(key), std::move(value)).second;
}

bool Yaml::erase(std::string_view key) {
  return is_mapping() && std::erase_if(members_, [&](const Member& member) {
                           return member.first.is_string() && member.first.text_ == key;
                         }) > 0;
}

bool operator==(const Yaml& a, const Yaml& b) {
  if (a.kind_ != b.kind_) return false;
  switch (a.kind_) {
    case Yaml::Kind::kNull: return true;
    case Yaml::Kind::kBool: return a.bool_ == b.bool_;
    case Yaml::Kind::kInt: return a.text_ == b.text_ && (!a.text_.empty() || a.int_ == b.int_);
    case Yaml::Kind::kFloat:
      return a.float_ == b.float_ ? std::signbit(a.float_) == std::signbit(b.float_)
                                  : std::isnan(a.float_) && std::isnan(b.float_);
    case Yaml::Kind::kString: return a.text_ == b.text_;
    case Yaml::Kind::kSequence: return a.items_ == b.items_;
    case Yaml::Kind::kMapping:
    case Yaml::Kind::kSet: break;
  }
  if (a.members_.size() != b.members_.size()) return false;
  for (size_t i = 0; i < a.members_.size(); ++i) {
    const Yaml::Member& mine = a.members_[i];
    const Yaml::Member* other = b.members_[i].first == mine.first ? &b.members_[i] : nullptr;
    for (size_t j = 0; !other && j < b.members_.size(); ++j)
      if (b.members_[j].first == mine.first) other = &b.members_[j];
    if (!other || !(mine.second == other->second)) return false;
  }
  return true;
}

}  // namespace viaduct::config
