#include "viaduct/data/sft_prompt.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/data/python_escapes.h"

namespace viaduct::data {
namespace {

void append(std::vector<int32_t>& to, const std::vector<int32_t>& ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

}  // namespace

TruncationMethod parse_truncation_method(std::string_view name) {
  VIADUCT_USER_CHECK(name == "left" || name == "right", "truncation_method is '{}'; it must be left or right",
                     name);
  return name == "left" ? TruncationMethod::kLeft : TruncationMethod::kRight;
}

bool is_space_sensitive(const Tokenize& tokenize) {
  std::vector<int32_t> apart = tokenize("x");
  append(apart, tokenize("y"));
  return tokenize("x y") != apart;
}

PromptFormat::PromptFormat(PromptOptions options, Tokenize tokenize)
    : options_(std::move(options)), tokenize_(std::move(tokenize)) {
  options_.prompt_template = unescape_python(options_.prompt_template, "prompt_template");
  split_template();
  VIADUCT_USER_CHECK(!parts_.empty() && parts_.back().key == options_.label_key,
                     "prompt_template '{}' must end with the answer, {{{}}} (label_key)", options_.prompt_template,
                     options_.label_key);
  mark_truncated();
  for (const auto& [name, wanted, id] :
       {std::tuple("add_bos", options_.add_bos, options_.bos_id),
        {"add_sep", options_.add_sep, options_.sep_id},
        {"add_eos", options_.add_eos || options_.virtual_tokens > 0, options_.eos_id}})
    VIADUCT_USER_CHECK(!wanted || id, "{} is true, but the tokenizer has no such token: set {}=false", name, name);
  VIADUCT_USER_CHECK(added_ids() < options_.max_seq_length,
                     "seq_length {} has no room for {} added tokens and a text", options_.max_seq_length,
                     added_ids());
}

void PromptFormat::split_template() {
  const std::string& text = options_.prompt_template;
  // A part's first space goes where ids stand for texts together with the space before them.
  const auto add = [&](std::string part, std::string key) {
    if (!options_.space_sensitive && part.starts_with(' ')) part.erase(0, 1);
    parts_.push_back({std::move(part), std::move(key)});
  };
  size_t literal = 0;
  for (size_t open = text.find('{'); open != std::string::npos;) {
    const size_t close = text.find_first_of("}\n", open + 1);
    if (close == std::string::npos || text[close] == '\n') {
      open = text.find('{', open + 1);
      continue;
    }
    VIADUCT_USER_CHECK(close > open + 1, "prompt_template '{}' has an empty {{}}: name a key of the lines in it",
                       text);
    size_t spaces = open;
    while (spaces > literal && text[spaces - 1] == ' ') --spaces;
    if (spaces > literal) add(text.substr(literal, spaces - literal), {});
    add(text.substr(spaces, open - spaces), text.substr(open + 1, close - open - 1));
    literal = close + 1;
    open = text.find('{', literal);
  }
  if (literal < text.size()) add(text.substr(literal), {});
}

void PromptFormat::mark_truncated() {
  if (options_.truncation_field.empty()) return;
  std::vector<std::string> fields;
  for (std::string_view rest = options_.truncation_field;;) {
    const size_t comma = rest.find(',');
    fields.emplace_back(rest.substr(0, comma));
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  std::string known;
  const Part* first = nullptr;
  for (const Part& part : parts_) {
    if (part.key.empty()) continue;
    if (!first) first = &part;
    known += (known.empty() ? "" : ", ") + part.key;
  }
  // Configurations of old checkpoints say context for what the template calls input.
  if (fields[0] == "context" && first->key == "input") fields[0] = "input";
  for (const std::string& field : fields) {
    int found = 0;
    for (Part& part : parts_) {
      if (part.key != field) continue;
      part.is_truncated = true;
      ++found;
    }
    VIADUCT_USER_CHECK(found == 1, "truncation_field '{}' is {} in prompt_template, whose keys are {}", field,
                       found == 0 ? "not" : "more than once", known);
  }
  truncation_fields_ = static_cast<int64_t>(fields.size());
}

int64_t PromptFormat::added_ids() const {
  return options_.virtual_tokens + options_.add_bos + options_.add_sep + options_.add_eos;
}

void PromptFormat::cut(std::vector<int32_t>& ids, size_t length) const {
  if (length >= ids.size()) return;
  if (options_.truncation_method == TruncationMethod::kLeft)
    ids.erase(ids.begin(), ids.end() - static_cast<ptrdiff_t>(length));
  else
    ids.resize(length);
}

void PromptFormat::truncate(std::vector<std::vector<int32_t>>& parts) const {
  const auto label = static_cast<int64_t>(parts.back().size());
  int64_t total = added_ids() + std::max(label, options_.tokens_to_generate);
  for (size_t i = 0; i + 1 < parts.size(); ++i) total += static_cast<int64_t>(parts[i].size());
  int64_t excess = total - options_.max_seq_length;
  if (excess <= 0) return;

  // First the fields, each an equal share; the first ones one more where it does not divide.
  if (truncation_fields_ > 0) {
    const int64_t share = excess / truncation_fields_, rest = excess % truncation_fields_;
    int64_t field = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (!parts_[i].is_truncated) continue;
      const int64_t most = share + (field++ < rest ? 1 : 0);
      const int64_t taken = std::min(most, static_cast<int64_t>(parts[i].size()));
      cut(parts[i], parts[i].size() - static_cast<size_t>(taken));
      excess -= taken;
    }
  }
  if (excess <= 0) return;
  // Then whatever stands at the end that is cut.
  const bool from_left = options_.truncation_method == TruncationMethod::kLeft;
  if (!from_left) excess += std::min(label, options_.tokens_to_generate);
  for (size_t n = 0; n < parts.size() && excess > 0; ++n) {
    std::vector<int32_t>& ids = parts[from_left ? n : parts.size() - 1 - n];
    const int64_t taken = std::min(excess, static_cast<int64_t>(ids.size()));
    cut(ids, ids.size() - static_cast<size_t>(taken));
    excess -= taken;
  }
}

SftExample PromptFormat::apply(const Json& line, std::string_view place) const {
  std::vector<std::vector<int32_t>> parts;
  for (const Part& part : parts_) {
    if (part.key.empty()) {
      parts.push_back(tokenize_(part.text));
      continue;
    }
    const Json* value = line.find(part.key);
    std::string_view text;
    if (value) {
      VIADUCT_USER_CHECK(value->is_string(), "{}: '{}' is {}, not a text", place, part.key,
                         value->dump().substr(0, 80));
      text = strip_spaces(value->as_string());
    } else {
      VIADUCT_USER_CHECK(options_.label_may_lack && part.key == options_.label_key,
                         "{} has no '{}', which prompt_template '{}' needs", place, part.key,
                         options_.prompt_template);
    }
    parts.push_back(tokenize_(part.text + std::string(text)));
  }
  truncate(parts);

  SftExample example;
  std::vector<int32_t>& ids = example.input_ids;
  if (options_.add_bos) ids.push_back(*options_.bos_id);
  if (options_.virtual_tokens > 0)
    ids.insert(ids.end(), static_cast<size_t>(options_.virtual_tokens), *options_.eos_id);
  for (size_t i = 0; i + 1 < parts.size(); ++i) append(ids, parts[i]);
  if (options_.add_sep) ids.push_back(*options_.sep_id);
  example.context_length = static_cast<int64_t>(ids.size());
  append(ids, parts.back());
  example.answer_length = static_cast<int64_t>(parts.back().size());
  if (options_.add_eos) ids.push_back(*options_.eos_id);
  VIADUCT_USER_CHECK(ids.size() >= 2,
                     "{} gives {} tokens; an example needs two to learn one from the other: remove it", place,
                     ids.size());
  example.metadata = Json::object();
  for (const auto& [key, value] : line.members())
    if (std::none_of(parts_.begin(), parts_.end(), [&](const Part& part) { return part.key == key; }))
      example.metadata.set(key, value);
  return example;
}

}  // namespace viaduct::data
