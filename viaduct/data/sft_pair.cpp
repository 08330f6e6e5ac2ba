#include "viaduct/data/sft_pair.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::data {
namespace {

// "Q: {prompt} A:" to "Q: " and " A:".
std::vector<std::string> parse_template(std::string_view text) {
  constexpr std::string_view kPrompt = "{prompt}";
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i).starts_with("{{") || text.substr(i).starts_with("}}")) {
      parts.back() += text[i];
      i += 2;
    } else if (text.substr(i).starts_with(kPrompt)) {
      parts.emplace_back();
      i += kPrompt.size();
    } else {
      VIADUCT_USER_CHECK(text[i] != '{' && text[i] != '}',
                         "prompt_template '{}' may have no other placeholder than {{prompt}}; {{{{ and }}}} stand "
                         "for braces",
                         text);
      parts.back() += text[i++];
    }
  }
  VIADUCT_USER_CHECK(parts.size() > 1, "prompt_template '{}' must contain {{prompt}}", text);
  return parts;
}

// Takes up to `excess` ids away; what is still too many.
int64_t cut(std::vector<int32_t>& ids, int64_t excess, TruncationMethod method) {
  const int64_t taken = std::min(excess, static_cast<int64_t>(ids.size()));
  const auto at = method == TruncationMethod::kLeft ? ids.begin() : ids.end() - taken;
  ids.erase(at, at + taken);
  return excess - taken;
}

}  // namespace

PairFormat::PairFormat(PairOptions options, Tokenize tokenize)
    : options_(std::move(options)),
      tokenize_(std::move(tokenize)),
      around_(parse_template(options_.prompt_template)) {
  VIADUCT_USER_CHECK(!options_.prompt_column.empty() && !options_.completion_column.empty() &&
                         options_.prompt_column != options_.completion_column,
                     "prompt_column '{}' and completion_column '{}' must be the names of two columns",
                     options_.prompt_column, options_.completion_column);
  for (const auto& [name, wanted, id] : {std::tuple("add_bos", options_.add_bos, options_.bos_id),
                                         {"add_sep", options_.add_sep, options_.sep_id},
                                         {"add_eos", options_.add_eos, options_.eos_id}})
    VIADUCT_USER_CHECK(!wanted || id, "{} is true, but the tokenizer has no such token: set {}=false", name, name);
  const int64_t added = options_.add_bos + options_.add_sep + options_.add_eos;
  VIADUCT_USER_CHECK(added < options_.max_seq_length, "seq_length {} has no room for {} added tokens and a text",
                     options_.max_seq_length, added);
  // A tokenizer that makes nothing of a single space needs none in front of a word.
  if (!options_.space_sensitive && options_.separator.starts_with(' ')) options_.separator.erase(0, 1);
}

SftExample PairFormat::apply(const Json& line, std::string_view place) const {
  for (const char* key : {"messages", "conversation", "conversations"}) {
    const Json* value = line.find(key);
    VIADUCT_USER_CHECK(!value || value->is_null(),
                       "{} has '{}': conversations need dataset.preprocessing._target_=ChatSFTPreprocessingConfig",
                       place, key);
  }
  // Without the columns that are set, the usual names.
  const Json* prompt = line.find(options_.prompt_column);
  const Json* completion = line.find(options_.completion_column);
  if ((!prompt || (!completion && !options_.completion_may_lack)) && line.find("prompt") &&
      line.find("completion")) {
    prompt = line.find("prompt");
    completion = line.find("completion");
  }
  VIADUCT_USER_CHECK(prompt && (completion || options_.completion_may_lack),
                     "{} has no '{}': dataset.preprocessing.prompt_column and completion_column name the columns",
                     place, prompt ? options_.completion_column : options_.prompt_column);
  for (const Json* value : {prompt, completion})
    VIADUCT_USER_CHECK(!value || value->is_string(), "{}: {} is no text", place, value->dump().substr(0, 80));
  const auto text_of = [&](const Json* value) {
    const std::string_view text = value ? std::string_view(value->as_string()) : std::string_view();
    return std::string(options_.strip_whitespace ? strip_spaces(text) : text);
  };
  std::string rendered = around_[0];
  for (size_t i = 1; i < around_.size(); ++i) rendered += text_of(prompt) + around_[i];
  std::vector<int32_t> asked = tokenize_(rendered), answer = tokenize_(options_.separator + text_of(completion));
  const int64_t added = options_.add_bos + options_.add_sep + options_.add_eos;
  int64_t excess = static_cast<int64_t>(asked.size() + answer.size()) + added - options_.max_seq_length;
  if (excess > 0) excess = cut(asked, excess, options_.truncation_method);
  if (excess > 0) cut(answer, excess, options_.truncation_method);

  SftExample example;
  std::vector<int32_t>& ids = example.input_ids;
  if (options_.add_bos) ids.push_back(*options_.bos_id);
  ids.insert(ids.end(), asked.begin(), asked.end());
  if (options_.add_sep) ids.push_back(*options_.sep_id);
  example.context_length = static_cast<int64_t>(ids.size());
  ids.insert(ids.end(), answer.begin(), answer.end());
  example.answer_length = static_cast<int64_t>(answer.size());
  if (options_.add_eos) ids.push_back(*options_.eos_id);
  VIADUCT_USER_CHECK(ids.size() >= 2,
                     "{} gives {} tokens; an example needs two to learn one from the other: remove it", place,
                     ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const bool never = std::find(options_.never_learned.begin(), options_.never_learned.end(), ids[i]) !=
                       options_.never_learned.end();
    const bool asks = static_cast<int64_t>(i) < example.context_length;
    example.loss_mask.push_back(!never && (options_.learn_prompt || !asks) ? 1 : 0);
  }
  example.metadata = Json::object();
  for (const auto& [key, value] : line.members())
    if (key != options_.prompt_column && key != options_.completion_column && key != "prompt" &&
        key != "completion")
      example.metadata.set(key, value);
  return example;
}

}  // namespace viaduct::data
