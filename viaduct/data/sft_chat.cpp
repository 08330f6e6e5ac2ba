#include "viaduct/data/sft_chat.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::data {
namespace {

constexpr std::string_view kConversationKeys[] = {"messages", "conversation", "conversations"};

bool any(const IdMask& mask) {
  return std::any_of(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; });
}

// Where the last run of ones begins.
std::optional<size_t> last_run(const IdMask& mask) {
  for (size_t i = mask.size(); i-- > 0;)
    if (mask[i] && (i == 0 || !mask[i - 1])) return i;
  return std::nullopt;
}

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

bool is_filled(const Json* value) {
  if (!value || value->is_null()) return false;
  if (value->is_string()) return !value->as_string().empty();
  if (value->is_array()) return !value->items().empty();
  if (value->is_object()) return !value->members().empty();
  return true;
}

// One turn in the form role, content.
Json message_of(const Json& turn, std::string_view place) {
  VIADUCT_USER_CHECK(turn.is_object(), "{}: a message is {}, not an object with role and content", place,
                     turn.dump().substr(0, 80));
  if (turn.contains("role") && turn.contains("content")) return turn;
  const Json *from = turn.find("from"), *value = turn.find("value");
  VIADUCT_USER_CHECK(from && value, "{}: a message has neither role and content nor from and value: {}", place,
                     turn.dump().substr(0, 120));
  VIADUCT_USER_CHECK(from->is_string(), "{}: the 'from' of a message is {}, not a text", place, from->dump());
  std::string role = lower(from->as_string());
  if (role == "human") role = "user";
  if (role == "gpt") role = "assistant";
  return Json::object({{"role", role}, {"content", *value}});
}

}  // namespace

ChatLoss parse_chat_loss(std::string_view name) {
  if (name == "assistant") return ChatLoss::kAssistant;
  if (name == "last_turn") return ChatLoss::kLastTurn;
  VIADUCT_USER_CHECK(name == "full", "loss_mode is '{}'; it must be assistant, last_turn or full", name);
  return ChatLoss::kFull;
}

const std::vector<std::string>& never_learned_tokens() {
  static const std::vector<std::string> tokens = {"<|im_start|>",
                                                  "<|vision_start|>",
                                                  "<|vision_end|>",
                                                  "<|vision_pad|>",
                                                  "<|image_pad|>",
                                                  "<|video_pad|>",
                                                  "<|AUDIO|>",
                                                  "<|audio_bos|>",
                                                  "<|audio_eos|>",
                                                  "<image>",
                                                  "<pad>",
                                                  "<|begin_of_text|>",
                                                  "<|step_id|>",
                                                  "<|image|>",
                                                  "<|python_tag|>",
                                                  "<|finetune_right_pad_id|>",
                                                  "<|end_header_id|>",
                                                  "<|start_header_id|>",
                                                  "<image_soft_token>",
                                                  "<audio_soft_token>",
                                                  "<start_of_audio>",
                                                  "<start_of_image>",
                                                  "<end_of_audio>",
                                                  "<end_of_image>"};
  return tokens;
}

Json chat_messages(const Json& line, std::string_view place) {
  const Json* turns = nullptr;
  for (const std::string_view key : kConversationKeys)
    if (const Json* found = line.find(key); !turns && found && !found->is_null()) turns = found;
  VIADUCT_USER_CHECK(turns, "{} has no 'messages', 'conversation' or 'conversations'", place);
  VIADUCT_USER_CHECK(turns->is_array(), "{}: the conversation is no list of messages", place);
  std::vector<Json> messages;
  for (const Json& turn : turns->items()) messages.push_back(message_of(turn, place));
  const auto is_system = [](const Json& message) {
    const Json& role = message.at("role");
    return role.is_string() && role.as_string() == "system";
  };
  if (const Json* system = line.find("system");
      is_filled(system) && std::none_of(messages.begin(), messages.end(), is_system))
    messages.insert(messages.begin(), Json::object({{"role", "system"}, {"content", *system}}));
  VIADUCT_USER_CHECK(!messages.empty(), "{}: the conversation has no messages", place);
  return Json::array(std::move(messages));
}

ChatFormat::ChatFormat(ChatOptions options, ApplyChatTemplate apply_template, Tokenize tokenize)
    : options_(std::move(options)),
      apply_template_(std::move(apply_template)),
      tokenize_(std::move(tokenize)),
      markers_(known_turn_markers(options_.chat_template, tokenize_)) {}

std::vector<int32_t> ChatFormat::render(std::vector<Json> messages, const Json& tools,
                                        bool add_generation_prompt) const {
  return apply_template_(Json::array(std::move(messages)), tools, add_generation_prompt).ids;
}

std::optional<IdMask> ChatFormat::assistant_mask(const RenderedChat& chat, const Json& messages,
                                                 const Json& tools) const {
  const bool marked = chat.assistant_mask && any(*chat.assistant_mask);
  const std::vector<Json>& turns = messages.items();
  const RenderMessages part = [&](std::vector<Json> some, bool prompt) -> std::optional<std::vector<int32_t>> {
    try {
      return render(std::move(some), tools, prompt);
    } catch (const UserError&) {  // many templates refuse conversations that end with the user
      return std::nullopt;
    }
  };
  std::optional<IdMask> found;
  if (markers_) {
    found = mask_by_prefixes(chat.ids, turns, part, *markers_, !marked);
    const auto tells = [&](const Json& message) {
      Json payload = message;
      payload.erase("role");
      return contains_marker(payload, *markers_, tokenize_);
    };
    if (!found && std::none_of(turns.begin(), turns.end(), tells) && !contains_marker(tools, *markers_, tokenize_))
      found = mask_by_markers(chat.ids, turns, *markers_, !marked);
  }
  if (!found && !chat.assistant_mask) found = mask_by_prompts(chat.ids, turns, part);
  if (!marked) return found && any(*found) ? found : chat.assistant_mask;
  IdMask mask = *chat.assistant_mask;
  if (found)
    for (size_t i = 0; i < mask.size(); ++i) mask[i] |= (*found)[i];
  return mask;
}

SftExample ChatFormat::apply(const Json& line, std::string_view place) const {
  const Json messages = chat_messages(line, place);
  const std::vector<Json>& turns = messages.items();
  const Json* own_tools = line.find("tools");
  const Json tools = is_filled(own_tools) ? *own_tools : options_.tool_schemas;
  RenderedChat chat;
  try {
    chat = apply_template_(messages, tools, false);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", place, error.what()));
  }
  const size_t size = chat.ids.size();
  VIADUCT_USER_CHECK(size >= 2, "{} gives {} tokens; an example needs two to learn one from the other: remove it",
                     place, size);
  VIADUCT_CHECK(!chat.assistant_mask || chat.assistant_mask->size() == size);

  SftExample example;
  IdMask& mask = example.loss_mask;
  if (options_.loss_mode == ChatLoss::kFull) {
    mask.assign(size, 1);
  } else {
    const std::optional<IdMask> written = assistant_mask(chat, messages, tools);
    VIADUCT_USER_CHECK(written,
                       "{}: the assistant's text cannot be told from the rest: the chat template has no {{% "
                       "generation %}} blocks, and "
                       "its turns were found neither by their markers nor by their prompts. Put the blocks around "
                       "the assistant's text "
                       "in the template (tokenizer.chat_template), or train on everything (loss_mode: full)",
                       place);
    mask = *written;
  }

  const auto last = std::find_if(turns.rbegin(), turns.rend(), is_assistant);
  if (options_.loss_mode == ChatLoss::kLastTurn && last != turns.rend()) {
    const auto before = static_cast<size_t>(turns.rend() - last) - 1;
    size_t begin = 0;
    if (before > 0)
      begin =
          common_prefix(render({turns.begin(), turns.begin() + static_cast<ptrdiff_t>(before)}, tools), chat.ids);
    // A template that shows its prefixes otherwise leaves nothing behind `begin`: the last run of ids is the turn.
    if (std::none_of(mask.begin() + static_cast<ptrdiff_t>(std::min(begin, size)), mask.end(),
                     [](uint8_t m) { return m; }))
      begin = last_run(mask).value_or(0);
    std::fill(mask.begin(), mask.begin() + static_cast<ptrdiff_t>(begin), uint8_t{0});
  }

  example.context_length = static_cast<int64_t>(size);
  if (options_.split_answer && is_assistant(turns.back())) {
    std::vector<Json> unanswered = turns;
    unanswered.back().set("content", "");
    size_t begin = common_prefix(render(std::move(unanswered), tools), chat.ids);
    if (begin == size && options_.loss_mode != ChatLoss::kFull) begin = last_run(mask).value_or(size);
    example.context_length = static_cast<int64_t>(begin);
    example.answer_length = static_cast<int64_t>(size - begin);
  }
  for (size_t i = 0; i < size; ++i)
    if (std::count(options_.never_learned.begin(), options_.never_learned.end(), chat.ids[i])) mask[i] = 0;
  example.input_ids = std::move(chat.ids);
  example.metadata = Json::object();
  for (const auto& [key, value] : line.members())
    if (std::find(std::begin(kConversationKeys), std::end(kConversationKeys), key) == std::end(kConversationKeys))
      example.metadata.set(key, value);
  return example;
}

}  // namespace viaduct::data
