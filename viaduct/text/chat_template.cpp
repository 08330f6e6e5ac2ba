#include "viaduct/text/chat_template.h"

#include <ctime>
#include <regex>

#include "viaduct/core/error.h"
#include "viaduct/text/python_text.h"

namespace viaduct::text {
namespace {

constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr std::string_view kBareTag = kContinueTag.substr(0, kContinueTag.size() - 1);

// Puts a tag behind the text that is to be continued, and returns that text.
std::string mark_final_message(Json& messages, const std::string& field, const std::string& origin) {
  Json* value = messages.items().back().find(field);
  VIADUCT_USER_CHECK(value && !value->is_null(), "{}: the final message has no '{}' to continue", origin, field);
  const auto mark = [](Json& text) {
    std::string before = text.as_string();
    text = Json(before + std::string(kContinueTag));
    return before;
  };
  if (value->is_string()) return mark(*value);
  VIADUCT_USER_CHECK(value->is_array(), "{}: '{}' of the final message is neither a text nor a list", origin,
                     field);
  for (auto block = value->items().rbegin(); block != value->items().rend(); ++block) {
    Json* text = block->is_object() ? block->find("text") : nullptr;
    if (text && text->is_string()) return mark(*text);
  }
  throw UserError(fmt::format("{}: the final message has no text to continue", origin));
}

void cut_at_tag(Rendered& rendered, const std::string& final_message, const std::string& origin) {
  const size_t tag = rendered.text.rfind(kBareTag);
  VIADUCT_USER_CHECK(tag != std::string::npos && rendered.text.find(strip(final_message)) != std::string::npos,
                     "{}: the final message cannot be continued: the template leaves it out or changes it", origin);
  const bool keeps_space = rendered.text.compare(tag, kContinueTag.size(), kContinueTag) == 0;
  rendered.text.resize(tag);
  // A template that strips messages stripped the space of the tag; then what stands in front of it is stripped too.
  if (!keeps_space) rendered.text.resize(strip_end(rendered.text).size());
}

}  // namespace

std::string choose_chat_template(const TokenizerFacts& facts, std::optional<std::string_view> name,
                                 bool has_tools) {
  const auto find = [&](std::string_view wanted) -> const std::string* {
    for (const auto& [known, source] : facts.chat_templates)
      if (known == wanted) return &source;
    return nullptr;
  };
  if (name) {
    const std::string* found = find(*name);
    return found ? *found : std::string(*name);
  }
  VIADUCT_USER_CHECK(!facts.chat_templates.empty(),
                     "{}: the tokenizer has no chat template: put a chat_template.jinja beside it, or name one",
                     facts.origin);
  if (has_tools)
    if (const std::string* found = find("tool_use")) return *found;
  const std::string* found = find("default");
  std::string names;
  for (const auto& [known, source] : facts.chat_templates) names += (names.empty() ? "" : ", ") + known;
  VIADUCT_USER_CHECK(found, "{}: there are several chat templates and no default: name one of {}", facts.origin,
                     names);
  return *found;
}

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer, std::string source)
    : tokenizer_(tokenizer),
      source_(std::move(source)),
      origin_(tokenizer.facts().origin),
      template_(RustTemplate::open(source_, origin_)) {
  static const std::regex kGeneration(R"(\{%[-+]?\s*generation\s*[-+]?%\})");
  has_generation_ = std::regex_search(source_, kGeneration);
}

Rendered ChatTemplate::render(const ChatRequest& request) const {
  VIADUCT_USER_CHECK(request.messages.is_array() && !request.messages.items().empty(),
                     "{}: a conversation must be a list of messages, with at least one", origin_);
  for (const Json& message : request.messages.items())
    VIADUCT_USER_CHECK(message.is_object(), "{}: a message must be an object", origin_);
  for (const Json* list : {&request.tools, &request.documents}) {
    VIADUCT_USER_CHECK(list->is_null() || list->is_array(), "{}: tools and documents must be lists", origin_);
    if (list->is_array())
      for (const Json& item : list->items())
        VIADUCT_USER_CHECK(item.is_object(), "{}: a tool or document must be an object", origin_);
  }
  VIADUCT_USER_CHECK(!request.continue_final_message || !request.add_generation_prompt,
                     "{}: an answer cannot be continued and begun at once", origin_);
  Json variables = Json::object();
  for (const auto& [role, text] : tokenizer_.facts().special_tokens) variables.set(role, Json(text));
  for (const auto& [key, value] : request.variables.members()) variables.set(key, value);
  for (const char* key : {"messages", "tools", "documents", "add_generation_prompt"})
    VIADUCT_USER_CHECK(!request.variables.contains(key), "{}: '{}' is no variable of its own", origin_, key);
  Json messages = request.messages;
  std::string final_message;
  if (request.continue_final_message) {
    VIADUCT_USER_CHECK(source_.find(*request.continue_final_message) != std::string::npos,
                       "{}: the template does not look at '{}'", origin_, *request.continue_final_message);
    final_message = mark_final_message(messages, *request.continue_final_message, origin_);
  }
  variables.set("messages", std::move(messages));
  variables.set("tools", request.tools);
  variables.set("documents", request.documents);
  variables.set("add_generation_prompt", request.add_generation_prompt);
  Rendered rendered = template_.render(variables, request.now.value_or(std::time(nullptr)));
  if (request.continue_final_message) cut_at_tag(rendered, final_message, origin_);
  return rendered;
}

ChatTokens ChatTemplate::encode(const ChatRequest& request) const {
  const Rendered rendered = render(request);
  Encoding encoding = tokenizer_.encode_with_spans(rendered.text, false);
  ChatTokens out{rendered.text, std::move(encoding.ids), std::vector<bool>(encoding.spans.size(), false)};
  const auto token_at = [&](uint32_t character) -> std::optional<size_t> {
    for (size_t i = 0; i < encoding.spans.size(); ++i)
      if (encoding.spans[i].begin <= character && character < encoding.spans[i].end) return i;
    return std::nullopt;
  };
  if (request.continue_final_message) return out;  // the spans end behind the text
  for (const CharacterSpan& span : rendered.generated) {
    if (span.begin == span.end) continue;
    const std::optional<size_t> first = token_at(span.begin);
    if (!first) break;
    // As transformers counts: a last character that no token covers means the end of the ids.
    const std::optional<size_t> last = token_at(span.end - 1);
    const size_t end = last && *last > 0 ? *last + 1 : out.ids.size();
    for (size_t i = *first; i < end; ++i) out.assistant_mask[i] = true;
  }
  return out;
}

}  // namespace viaduct::text
