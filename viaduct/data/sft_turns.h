// Which ids of a rendered conversation the assistant wrote, for templates that do not mark it themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/json.h"
#include "viaduct/data/sft_example.h"

namespace viaduct::data {

/// Ids that begin and end the turns of a chat template.
struct TurnMarkers {
  std::vector<std::pair<std::string, std::vector<int32_t>>> starts;  // by role; the first is the assistant's
  std::vector<std::vector<int32_t>> ends;                            // of a turn; the preferred one first
};

/// The markers of a template of a known kind (ChatML, Llama 3, Gemma 2 to 4, Kimi, Harmony), told by the special
/// tokens in its source; nullopt for another kind.
std::optional<TurnMarkers> known_turn_markers(std::string_view chat_template, const Tokenize& tokenize);

/// One an id: 1 where the assistant wrote it.
using IdMask = std::vector<uint8_t>;
/// Ids of these messages, with or without what begins an answer at the end; nullopt when the template refuses them.
using RenderMessages =
    std::function<std::optional<std::vector<int32_t>>(std::vector<Json> messages, bool add_generation_prompt)>;

/// A turn is looked for between the ids of the messages before it and of those up to it. The end of a turn is the
/// assistant's, too; without `contents` only that is marked. nullopt when a turn is not found.
std::optional<IdMask> mask_by_prefixes(std::span<const int32_t> ids, const std::vector<Json>& messages,
                                       const RenderMessages& render, const TurnMarkers& markers, bool contents);
/// Turns are looked for by their markers alone. nullopt unless there are as many as `messages` has of the
/// assistant's, each with one end.
std::optional<IdMask> mask_by_markers(std::span<const int32_t> ids, const std::vector<Json>& messages,
                                      const TurnMarkers& markers, bool contents);
/// A turn is what follows the prompt for it, up to the end of its message; for templates of any kind whose
/// renderings of the first messages are the beginning of that of all. nullopt for others.
std::optional<IdMask> mask_by_prompts(std::span<const int32_t> ids, const std::vector<Json>& messages,
                                      const RenderMessages& render);
/// True when a text anywhere in `value` contains one of the markers, so that they do not tell turns.
bool contains_marker(const Json& value, const TurnMarkers& markers, const Tokenize& tokenize);

/// How many ids two lists have in common at their beginning.
size_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b);
/// Is it a message of the assistant's?
bool is_assistant(const Json& message);

}  // namespace viaduct::data
