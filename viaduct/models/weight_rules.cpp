#include "viaduct/models/weight_rules.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::models {

using layout::Expr;

namespace {

// Does `text` match `pattern`, whose "*" are runs of digits?
bool matches(std::string_view pattern, std::string_view text) {
  size_t i = 0, j = 0;
  while (i < pattern.size()) {
    if (pattern[i] == '*') {
      const size_t start = j;
      while (j < text.size() && text[j] >= '0' && text[j] <= '9') ++j;
      if (j == start) return false;
      ++i;
    } else {
      if (j >= text.size() || text[j] != pattern[i]) return false;
      ++i;
      ++j;
    }
  }
  return j == text.size();
}

// Calls visit(first, last) with the words of a dotted name.
template <class Visit>
void for_each_word(std::string_view name, Visit&& visit) {
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    visit(begin, end);
    begin = end + 1;
  }
}

bool is_number(std::string_view word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The name with its expert's number cut off.
std::string_view without_expert(const Parameter& parameter) {
  std::string_view name = parameter.name;
  if (parameter.expert >= 0) name.remove_suffix(std::to_string(parameter.expert).size());
  return name;
}

}  // namespace

std::string name_pattern(const Parameter& parameter) {
  const std::string_view name = without_expert(parameter);
  std::string pattern;
  for_each_word(name, [&](size_t begin, size_t end) {
    if (begin > 0) pattern += '.';
    const std::string_view word = name.substr(begin, end - begin);
    pattern += is_number(word) ? "*" : word;
  });
  if (parameter.expert >= 0) pattern += '*';
  return pattern;
}

std::vector<int64_t> name_numbers(const Parameter& parameter) {
  const std::string_view name = without_expert(parameter);
  std::vector<int64_t> numbers;
  for_each_word(name, [&](size_t begin, size_t end) {
    const std::string_view word = name.substr(begin, end - begin);
    if (is_number(word)) numbers.push_back(std::stoll(std::string(word)));
  });
  if (parameter.expert >= 0) numbers.push_back(parameter.expert);
  return numbers;
}

std::vector<int64_t> after_layers(const ArchSpec& arch, std::span<const int64_t> numbers) {
  std::vector<int64_t> result(numbers.begin(), numbers.end());
  if (!result.empty()) result[0] += arch.num_layers();
  return result;
}

WeightTable& WeightTable::add(WeightRule rule) {
  const auto [it, fresh] = by_pattern_.try_emplace(rule.megatron, rules_.size());
  if (fresh) {
    rules_.push_back(std::move(rule));
  } else {
    rules_[it->second] = std::move(rule);
  }
  return *this;
}

WeightTable& WeightTable::add(const std::vector<WeightRule>& rules) {
  for (const WeightRule& rule : rules) add(rule);
  return *this;
}

WeightTable& WeightTable::remove(std::string_view megatron) {
  std::vector<WeightRule> kept;
  for (WeightRule& rule : rules_)
    if (rule.megatron != megatron) kept.push_back(std::move(rule));
  rules_.clear();
  by_pattern_.clear();
  return add(kept);
}

WeightTable& WeightTable::subtree(std::string megatron, std::string hf) {
  subtrees_.push_back(same(std::move(megatron), std::move(hf)));
  return *this;
}

WeightTable& WeightTable::derived(DerivedTensor tensor) {
  derived_.push_back(std::move(tensor));
  return *this;
}

WeightTable WeightTable::renamed(std::span<const std::pair<std::string, std::string>> prefixes) const {
  const auto rename = [&](std::string& name) {
    const std::pair<std::string, std::string>* best = nullptr;
    for (const auto& each : prefixes)
      if (name.starts_with(each.first) && (!best || each.first.size() > best->first.size())) best = &each;
    if (best) name.replace(0, best->first.size(), best->second);
  };
  WeightTable table = *this;
  for (std::vector<WeightRule>* rules : {&table.rules_, &table.subtrees_})
    for (WeightRule& rule : *rules)
      for (std::string& name : rule.hf) rename(name);
  for (DerivedTensor& tensor : table.derived_) {
    rename(tensor.hf);
    rename(tensor.of);
  }
  return table;
}

WeightTable::Match WeightTable::match(const ArchSpec& arch, const Parameter& parameter) const {
  const auto it = by_pattern_.find(name_pattern(parameter));
  if (it == by_pattern_.end()) {
    for (const WeightRule& tree : subtrees_)
      if (parameter.name.starts_with(tree.megatron))
        return {&tree, {tree.hf[0] + parameter.name.substr(tree.megatron.size())}};
    throw InternalError(fmt::format("the {} family has no rule for {}", arch.family, parameter.name));
  }
  const WeightRule& rule = rules_[it->second];
  std::vector<int64_t> numbers = name_numbers(parameter);
  if (rule.numbers) numbers = rule.numbers(arch, numbers);
  std::vector<std::string> names;
  names.reserve(rule.hf.size());
  for (const std::string& pattern : rule.hf) {
    const auto stars = static_cast<size_t>(std::count(pattern.begin(), pattern.end(), '*'));
    names.push_back(fill_pattern(pattern, std::span(numbers).first(std::min(stars, numbers.size()))));
  }
  return {&rule, std::move(names)};
}

Expr WeightTable::expression(const ArchSpec& arch, const Parameter& parameter) const {
  const Match found = match(arch, parameter);
  return found.rule->make({arch, parameter, found.names});
}

std::vector<std::pair<std::string, std::string>> WeightTable::mtp_copies(const ArchSpec& arch) const {
  std::vector<std::pair<std::string, std::string>> copies;
  for (int64_t depth = 0; arch.mtp && depth < arch.mtp->num_weight_sets(); ++depth) {
    const int64_t layer = arch.num_layers() + depth;
    for (const DerivedTensor& tensor : derived_)
      if (tensor.kind == DerivedTensor::Kind::kMtpCopy)
        copies.emplace_back(fill_pattern(tensor.hf, std::span(&layer, 1)), tensor.of);
  }
  return copies;
}

const DerivedTensor* WeightTable::find_derived(std::string_view hf_name) const {
  for (const DerivedTensor& tensor : derived_)
    if (matches(tensor.hf, hf_name)) return &tensor;
  return nullptr;
}

}  // namespace viaduct::models
