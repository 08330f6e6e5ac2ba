#include "viaduct/config/dataset_blend.h"

#include <cstdlib>

namespace viaduct::config {
namespace {

std::string trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1));
}

Strings words_of(std::string_view text) {
  Strings words;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of(" \t\n\r\f\v", at), text.size());
    if (end > at) words.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

std::optional<double> number_in(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0' ? std::optional(value) : std::nullopt;
}

}  // namespace

Blend blend_of(const StringOrStrings& data_path) {
  const auto* text = std::get_if<std::string>(&data_path);
  Strings words = text ? words_of(*text) : std::get<Strings>(data_path);
  for (std::string& word : words) word = trimmed(word);
  if (words.size() % 2 == 1) return {words, std::nullopt};
  Numbers weights;
  Strings paths;
  for (size_t i = 0; i < words.size(); i += 2) {
    if (const std::optional<double> weight = number_in(words[i])) weights.push_back(Number(*weight));
    paths.push_back(words[i + 1]);
  }
  if (weights.empty()) return {words, std::nullopt};
  VIADUCT_USER_CHECK(weights.size() == paths.size(),
                     "a data path of {} words, of which every other should be a weight: {} are no numbers",
                     words.size(), paths.size() - weights.size());
  return {paths, weights};
}

SplitMatrix split_matrix_of(std::string_view split) {
  std::vector<double> parts;
  constexpr std::string_view kDigits = ".0123456789";
  for (size_t at = split.find_first_of(kDigits); at != std::string_view::npos;) {
    const size_t end = std::min(split.find_first_not_of(kDigits, at), split.size());
    const std::optional<double> part = number_in(std::string(split.substr(at, end - at)));
    VIADUCT_USER_CHECK(part, "the split '{}': '{}' is no number", split, split.substr(at, end - at));
    parts.push_back(*part);
    at = split.find_first_of(kDigits, end);
  }
  double sum = 0;
  for (double part : parts) sum += part;
  VIADUCT_USER_CHECK(parts.size() <= 3 && sum > 0, "the split '{}': expected up to three numbers like 99,8,2",
                     split);
  parts.resize(3, 0.0);
  SplitMatrix matrix;
  double begin = 0;
  for (size_t i = 0; i < 3; ++i) {
    const double end = begin + parts[i] / sum;
    if (end > begin) matrix[i] = {begin, end};
    begin = end;
  }
  return matrix;
}

Yaml split_matrix_to_yaml(const SplitMatrix& matrix) {
  Yaml out = Yaml::sequence();
  for (size_t i = 0; i < matrix.size(); ++i) {
    if (!matrix[i]) {
      out.items().emplace_back();
      continue;
    }
    // Python's sum begins with the integer 0.
    const Yaml begin = i == 0 ? Yaml(0) : Yaml(matrix[i]->first);
    out.items().push_back(Yaml::sequence({begin, Yaml(matrix[i]->second)}));
  }
  return out;
}

}  // namespace viaduct::config
