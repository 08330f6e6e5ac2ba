// Chat templates: conversations to text and ids, as transformers' apply_chat_template makes them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/text/tokenizer.h"

namespace viaduct::text {

/// One conversation and how it is to be shown.
struct ChatRequest {
  Json messages;                       // a list of objects, each with a role and a content; keys keep their order
  Json tools;                          // null, or a list of JSON schemas
  Json documents;                      // null, or a list of objects with title and text
  bool add_generation_prompt = false;  // ends with what begins an answer of the model
  /// The field of the last message ("content") that the model is to go on with: the text ends where it ends.
  std::optional<std::string> continue_final_message;
  Json variables = Json::object();  // what else the template may look at (enable_thinking ...)
  std::optional<int64_t> now;       // for strftime_now, in seconds since 1970; the clock's unless given
};

/// A conversation as ids.
struct ChatTokens {
  std::string text;
  std::vector<int32_t> ids;
  /// One an id: true for what the model said, which is what {% generation %} blocks of the template mark. All false
  /// when the template has none (has_generation()).
  std::vector<bool> assistant_mask;
};

/// The source of the template that transformers would take: the one of this name; without a name "tool_use" when
/// there are tools and such a template, else "default". A name that is none of the folder's is a template's source
/// itself. UserError when there is no template, or no default among several.
std::string choose_chat_template(const TokenizerFacts& facts, std::optional<std::string_view> name = std::nullopt,
                                 bool has_tools = false);

/// A template that is ready to be used; several threads may use one.
class ChatTemplate {
 public:
  /// `source` as choose_chat_template gives it. The tokenizer must outlive this. UserError with the line for a
  /// template that is none.
  ChatTemplate(const Tokenizer& tokenizer, std::string source);

  /// The text. UserError when the template refuses the conversation, with its words; when continue_final_message
  /// cannot be done; and for impossible requests.
  Rendered render(const ChatRequest& request) const;
  /// The text and its ids; nothing is put around them.
  ChatTokens encode(const ChatRequest& request) const;
  /// True when the template marks what the model said.
  bool has_generation() const { return has_generation_; }

 private:
  const Tokenizer& tokenizer_;
  std::string source_;
  std::string origin_;
  RustTemplate template_;
  bool has_generation_;
};

}  // namespace viaduct::text
