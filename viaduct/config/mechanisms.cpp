#include "viaduct/config/mechanisms.h"

#include <algorithm>
#include <charconv>
#include <map>

namespace viaduct::config {
namespace {

struct Refusal {
  std::string_view path;
  std::string_view condition;
  std::string_view what;
};
constexpr Refusal kRefusals[] = {
#define H(section, fields)
#define S(section, fields)
#define N(path, condition, what) {#path, condition, what},
#include "viaduct/config/mechanisms.inc"
#undef H
#undef S
#undef N
};

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    if (end > at) words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

/// Not null, false, zero or empty.
bool is_set(const Yaml& value) {
  switch (value.kind()) {
    case Yaml::Kind::kNull: return false;
    case Yaml::Kind::kBool: return value.as_bool();
    case Yaml::Kind::kInt:
    case Yaml::Kind::kFloat: return true;
    case Yaml::Kind::kString: return !value.as_string().empty();
    case Yaml::Kind::kSequence: return !value.items().empty();
    case Yaml::Kind::kMapping:
    case Yaml::Kind::kSet: return !value.members().empty();
  }
  return true;
}

/// The name of a type or function of Python, which is a mapping; else null.
const Yaml* python_name(const Yaml& value) {
  const Yaml* call = value.is_mapping() ? value.find("_call_") : nullptr;
  return call && call->is_bool() && !call->as_bool() ? value.find("_target_") : nullptr;
}

bool holds(std::string_view condition, const Yaml& value) {
  if (condition == "true") return value.is_bool() && value.as_bool();
  if (condition == "set") return is_set(value);
  const std::vector<std::string_view> words = words_of(condition);
  VIADUCT_CHECK(words.size() > 1, "condition '{}'", condition);
  if (words[0] == "above") {
    double limit = 0;
    std::from_chars(words[1].data(), words[1].data() + words[1].size(), limit);
    return value.is_number() && value.as_double() > limit;
  }
  VIADUCT_CHECK(words[0] == "not", "condition '{}'", condition);
  const Yaml* name = python_name(value);
  const Yaml& text = name ? *name : value;
  if (!text.is_string()) return false;
  return std::find(words.begin() + 1, words.end(), last_word(text.as_string())) == words.end();
}

}  // namespace

const std::vector<FieldEntry>& field_entries() {
  static const std::vector<FieldEntry> kEntries = [] {
    std::vector<FieldEntry> entries;
    const auto list = [&](std::string_view section, std::string_view fields, FieldUse use) {
      for (std::string_view field : words_of(fields)) entries.push_back({section, field, use});
    };
#define H(section, fields) list(#section, fields, FieldUse::kHonoured);
#define S(section, fields) list(#section, fields, FieldUse::kNoInfluence);
#define N(path, condition, what)
#include "viaduct/config/mechanisms.inc"
#undef H
#undef S
#undef N
    for (const Refusal& row : kRefusals) {
      const auto [section, field] = split_path(row.path);
      entries.push_back({section, field, FieldUse::kRefused});
    }
    return entries;
  }();
  return kEntries;
}

void check_mechanisms(const ConfigContainer& config, Violations& violations) {
  std::map<std::string_view, Yaml> sections;
  for (const ContainerSection& section : container_sections()) sections.emplace(section.name, section.get(config));
  for (const Refusal& row : kRefusals) {
    const auto [section, field] = split_path(row.path);
    const Yaml* value = sections.at(section).find(field);
    if (!value || !holds(row.condition, *value)) continue;
    const size_t bar = row.what.find('|');
    std::string fix = row.condition == "true" ? fmt::format("set {}=false", row.path)
                                              : fmt::format("take {} back to its default", row.path);
    if (bar != row.what.npos) fix = row.what.substr(bar + 1);
    // Of a data set the name says more than the class.
    const Yaml* name = value->is_mapping() ? value->find("dataset_name") : nullptr;
    if (!name) name = python_name(*value);
    violations.add(fmt::format("{}={}: {} is not built yet", row.path, python_text(name ? *name : *value),
                               row.what.substr(0, bar)),
                   fix);
  }
}

}  // namespace viaduct::config
