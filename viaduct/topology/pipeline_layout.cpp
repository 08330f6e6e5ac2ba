#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "viaduct/core/error.h"
#include "viaduct/topology/pipeline.h"

namespace viaduct::topology {

namespace {

constexpr size_t kMostEntries = 100000;  // far above any model; keeps "t*999999999" from eating the memory

// Upstream's names, in the order of LayerKind.
constexpr std::string_view kNames[] = {"embedding", "decoder", "mtp", "loss"};

class LayoutParser {
 public:
  explicit LayoutParser(std::string_view text) : text_(text) {}

  StageList parse() {
    std::string plain;
    while (at_ < text_.size()) {
      std::string unit = text_[at_] == '(' ? group() : symbol();
      repeat(unit);
      plain += unit;
      check(plain.size() <= kMostEntries, "the layout is too long");
    }
    StageList stages(1);
    for (char c : plain) {
      if (c == '|')
        stages.emplace_back();
      else
        stages.back().push_back(kind_of(c));
    }
    return stages;
  }

 private:
  void skip_commas() {
    while (at_ < text_.size() && text_[at_] == ',') ++at_;
  }

  // One of E, t, m, L, |, or nothing for commas at the end.
  std::string symbol() {
    skip_commas();
    if (at_ == text_.size() || text_[at_] == '(') return "";
    check(std::string_view("EtmL|").find(text_[at_]) != std::string_view::npos,
          fmt::format("'{}' is none of E, t, m, L, |, ( and *", text_[at_]));
    return std::string(1, text_[at_++]);
  }

  // What stands in parentheses, which must be repeated.
  std::string group() {
    const size_t open = at_++;
    std::string inner;
    for (skip_commas(); at_ < text_.size() && text_[at_] != ')'; skip_commas()) {
      check(text_[at_] != '(', "parentheses do not nest");
      std::string unit = symbol();
      repeat(unit);
      inner += unit;
      check(inner.size() <= kMostEntries, "the layout is too long");
    }
    if (at_ == text_.size()) at_ = open;
    check(text_[at_] == ')', "a parenthesis that is not closed");
    ++at_;
    skip_commas();
    check(at_ < text_.size() && text_[at_] == '*', "parentheses without a repetition (*N) behind them");
    check(!inner.empty(), "empty parentheses");
    return inner;
  }

  void repeat(std::string& unit) {
    skip_commas();
    if (unit.empty() || at_ == text_.size() || text_[at_] != '*') return;
    ++at_;
    skip_commas();
    size_t count = 0;
    bool has_digits = false;
    for (; at_ < text_.size() && (std::isdigit(static_cast<unsigned char>(text_[at_])) || text_[at_] == ',');
         ++at_) {
      if (text_[at_] == ',') continue;
      has_digits = true;
      count = count * 10 + static_cast<size_t>(text_[at_] - '0');
      check(count <= kMostEntries, "the layout is too long");
    }
    check(has_digits, "a number must follow '*'");
    check(at_ == text_.size() || text_[at_] != '*', "one repetition cannot follow another");
    check(count * unit.size() <= kMostEntries, "the layout is too long");
    std::string result;
    for (size_t i = 0; i < count; ++i) result += unit;
    unit = result;
  }

  static LayerKind kind_of(char c) {
    return c == 'E'   ? LayerKind::kEmbedding
           : c == 't' ? LayerKind::kTransformer
           : c == 'm' ? LayerKind::kMtp
                      : LayerKind::kLoss;
  }

  void check(bool condition, std::string_view problem) const {
    VIADUCT_USER_CHECK(condition, "pipeline_model_parallel_layout \"{}\", character {}: {}", text_, at_ + 1,
                       problem);
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

StageList parse_layout(std::string_view text) { return LayoutParser(text).parse(); }

StageList layout_from_names(const std::vector<std::vector<std::string>>& stages) {
  StageList result;
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    result.emplace_back();
    for (const std::string& given : stages[stage]) {
      std::string name;
      for (char c : given)
        if (!std::isspace(static_cast<unsigned char>(c)))
          name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      const auto* known = std::find(std::begin(kNames), std::end(kNames), name);
      VIADUCT_USER_CHECK(known != std::end(kNames),
                         "pipeline_model_parallel_layout, stage {}: '{}' is none of embedding, decoder, mtp, loss",
                         stage, given);
      result.back().push_back(static_cast<LayerKind>(known - std::begin(kNames)));
    }
  }
  return result;
}

std::string to_string(const StageList& stages) {
  std::string text;
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    if (stage > 0) text += '|';
    for (LayerKind kind : stages[stage]) text += "EtmL"[static_cast<size_t>(kind)];
  }
  return text;
}

}  // namespace viaduct::topology
