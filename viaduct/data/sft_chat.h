// Conversations by the tokenizer's chat template (upstream's GPTSFTChatDataset): lines with "messages" (role,
// content), "conversation", or ShareGPT's "conversations" (from, value).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/data/sft_example.h"
#include "viaduct/data/sft_turns.h"

namespace viaduct::data {

/// A conversation as its template renders it.
struct RenderedChat {
  std::vector<int32_t> ids;
  /// One an id: 1 in the {% generation %} blocks. nullopt when the template has none.
  std::optional<IdMask> assistant_mask;
};
/// Renders messages (a list) with tools (a list, or null), with or without a beginning of an answer at the end.
/// UserError when the template refuses them.
using ApplyChatTemplate =
    std::function<RenderedChat(const Json& messages, const Json& tools, bool add_generation_prompt)>;

/// Which ids count for the loss: what the assistant wrote, its last turn only, or all.
enum class ChatLoss { kAssistant, kLastTurn, kFull };
/// "assistant", "last_turn" or "full"; UserError for another name.
ChatLoss parse_chat_loss(std::string_view name);

/// How conversations become examples.
struct ChatOptions {
  ChatLoss loss_mode = ChatLoss::kAssistant;
  Json tool_schemas;                   // tools of lines that have none of their own
  std::string chat_template;           // its source, which tells how turns begin and end
  std::vector<int32_t> never_learned;  // ids that count for no loss (ids of never_learned_tokens())
  bool split_answer = false;           // find context_length, which only generation needs
};

/// Tokens that stand for images, padding and headers, and that upstream never trains on; those that a tokenizer
/// has.
const std::vector<std::string>& never_learned_tokens();

/// The messages of a line as a list of objects with role and content; a "system" of the line comes first unless
/// there is one. ShareGPT's human and gpt are user and assistant. UserError that begins with `place`.
Json chat_messages(const Json& line, std::string_view place);

/// Lines by a chat template. The assistant's ids are those in {% generation %} blocks, and what ends its turns
/// where the template is of a known kind; for templates without such blocks those between the markers of a known
/// kind, else what follows the prompts for its turns.
class ChatFormat : public SftFormat {
 public:
  /// UserError for options that contradict each other.
  ChatFormat(ChatOptions options, ApplyChatTemplate apply_template, Tokenize tokenize);
  /// UserError also when none of these ways tells the assistant's text from the rest.
  SftExample apply(const Json& line, std::string_view place) const override;

 private:
  std::optional<IdMask> assistant_mask(const RenderedChat& chat, const Json& messages, const Json& tools) const;
  std::vector<int32_t> render(std::vector<Json> messages, const Json& tools,
                              bool add_generation_prompt = false) const;

  ChatOptions options_;
  ApplyChatTemplate apply_template_;
  Tokenize tokenize_;
  std::optional<TurnMarkers> markers_;
};

}  // namespace viaduct::data
