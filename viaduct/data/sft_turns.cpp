#include "viaduct/data/sft_turns.h"

#include <algorithm>
#include <array>
#include <set>

namespace viaduct::data {
namespace {

// A kind of template: tokens that all occur in its source, what begins the assistant's turn and ends turns, and how
// the turns of others begin ("{}" stands for the role).
struct TemplateKind {
  std::array<std::string_view, 5> tells;
  std::string_view assistant_start;
  std::array<std::string_view, 3> ends;
  std::string_view other_start;
  std::array<std::string_view, 4> other_roles;
};

constexpr std::array<std::string_view, 4> kFourRoles = {"system", "developer", "user", "tool"};

constexpr TemplateKind kKinds[] = {
    {{"<|im_start|>assistant", "<|im_end|>"},  // ChatML
     "<|im_start|>assistant\n",
     {"<|im_end|>\n", "<|im_end|>"},
     "<|im_start|>{}\n",
     kFourRoles},
    {{"<|im_assistant|>", "<|im_user|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>"},  // Kimi
     "<|im_assistant|>assistant<|im_middle|>",
     {"<|im_end|>"},
     "<|im_{}|>{}<|im_middle|>",
     {"system", "user"}},
    {{"<|turn>model", "<turn|>"}, "<|turn>model\n", {"<turn|>"}, "", {}},                              // Gemma 4
    {{"<start_of_turn>model", "<end_of_turn>"}, "<start_of_turn>model\n", {"<end_of_turn>"}, "", {}},  // Gemma 2, 3
    {{"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},                                       // Llama 3
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     {"<|eot_id|>"},
     "<|start_header_id|>{}<|end_header_id|>\n\n",
     kFourRoles},
    {{"<|start|>", "<|channel|>", "<|message|>"},  // Harmony: one turn may have several messages, one a channel
     "<|start|>assistant",
     {"<|return|>", "<|end|>", "<|call|>"},
     "<|start|>{}",
     kFourRoles},
};

std::string with_role(std::string_view pattern, std::string_view role) {
  std::string out(pattern);
  for (size_t at; (at = out.find("{}")) != std::string::npos;) out.replace(at, 2, role);
  return out;
}

constexpr size_t kNowhere = static_cast<size_t>(-1);

size_t find_ids(std::span<const int32_t> ids, const std::vector<int32_t>& pattern, size_t from) {
  if (pattern.empty() || from >= ids.size()) return kNowhere;
  const auto it =
      std::search(ids.begin() + static_cast<ptrdiff_t>(from), ids.end(), pattern.begin(), pattern.end());
  return it == ids.end() ? kNowhere : static_cast<size_t>(it - ids.begin());
}

// Where turns may end.
struct End {
  size_t begin, end;
  size_t rank;  // in TurnMarkers::ends
};

std::vector<End> ends_between(std::span<const int32_t> ids, const TurnMarkers& markers, size_t from, size_t limit) {
  std::vector<End> found;
  for (size_t rank = 0; rank < markers.ends.size(); ++rank) {
    const std::vector<int32_t>& pattern = markers.ends[rank];
    for (size_t at = from; (at = find_ids(ids, pattern, at)) != kNowhere && at + pattern.size() <= limit; ++at)
      found.push_back({at, at + pattern.size(), rank});
  }
  return found;
}

void mark(IdMask& mask, size_t content, const End& end, bool contents) {
  std::fill(mask.begin() + static_cast<ptrdiff_t>(contents ? content : end.begin),
            mask.begin() + static_cast<ptrdiff_t>(end.end), uint8_t{1});
}

std::vector<Json> first(const std::vector<Json>& messages, size_t count) {
  return {messages.begin(), messages.begin() + static_cast<ptrdiff_t>(count)};
}

}  // namespace

bool is_assistant(const Json& message) {
  const Json* role = message.find("role");
  return role && role->is_string() && role->as_string() == "assistant";
}

size_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t most = std::min(a.size(), b.size());
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(most), b.begin()).first -
                             a.begin());
}

std::optional<TurnMarkers> known_turn_markers(std::string_view chat_template, const Tokenize& tokenize) {
  for (const TemplateKind& kind : kKinds) {
    if (!std::all_of(kind.tells.begin(), kind.tells.end(),
                     [&](std::string_view token) { return chat_template.find(token) != std::string_view::npos; }))
      continue;
    TurnMarkers markers;
    markers.starts.emplace_back("assistant", tokenize(kind.assistant_start));
    for (const std::string_view role : kind.other_roles)
      if (!role.empty()) markers.starts.emplace_back(role, tokenize(with_role(kind.other_start, role)));
    for (const std::string_view end : kind.ends)
      if (!end.empty()) markers.ends.push_back(tokenize(end));
    return markers;
  }
  return std::nullopt;
}

std::optional<IdMask> mask_by_prefixes(std::span<const int32_t> ids, const std::vector<Json>& messages,
                                       const RenderMessages& render, const TurnMarkers& markers, bool contents) {
  IdMask mask(ids.size(), 0);
  const std::vector<int32_t>& start = markers.starts[0].second;
  bool found = false;
  for (size_t turn = 0; turn < messages.size(); ++turn) {
    if (!is_assistant(messages[turn])) continue;
    size_t from = 0, limit = ids.size();
    if (turn > 0) {
      const std::optional<std::vector<int32_t>> before = render(first(messages, turn), false);
      if (!before) return std::nullopt;
      from = common_prefix(*before, ids);
    }
    if (turn + 1 < messages.size()) {
      const std::optional<std::vector<int32_t>> through = render(first(messages, turn + 1), false);
      if (!through) return std::nullopt;
      limit = common_prefix(*through, ids);
    }
    // Some templates begin an answer after every message, asked or not.
    if (from >= start.size() &&
        std::equal(start.begin(), start.end(), ids.begin() + static_cast<ptrdiff_t>(from - start.size())))
      from -= start.size();
    const size_t at = find_ids(ids, start, from);
    if (from >= limit || at == kNowhere || at + start.size() > limit) return std::nullopt;
    const std::vector<End> ends = ends_between(ids, markers, at + start.size(), limit);
    // A text may contain what ends turns: the turn's own end is the last one.
    const auto last = std::max_element(ends.begin(), ends.end(), [](const End& a, const End& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.rank > b.rank;
    });
    if (last == ends.end()) return std::nullopt;
    mark(mask, at + start.size(), *last, contents);
    found = true;
  }
  if (!found) return std::nullopt;
  return mask;
}

std::optional<IdMask> mask_by_markers(std::span<const int32_t> ids, const std::vector<Json>& messages,
                                      const TurnMarkers& markers, bool contents) {
  struct Start {
    size_t at, size, role;
  };
  std::vector<Start> starts;
  for (size_t role = 0; role < markers.starts.size(); ++role) {
    const std::vector<int32_t>& pattern = markers.starts[role].second;
    for (size_t at = 0; (at = find_ids(ids, pattern, at)) != kNowhere; at += pattern.size())
      starts.push_back({at, pattern.size(), role});
  }
  // Of two that begin together the longer one counts.
  std::stable_sort(starts.begin(), starts.end(),
                   [](const Start& a, const Start& b) { return a.at != b.at ? a.at < b.at : a.size > b.size; });
  starts.erase(
      std::unique(starts.begin(), starts.end(), [](const Start& a, const Start& b) { return a.at == b.at; }),
      starts.end());
  const auto wanted = std::count_if(messages.begin(), messages.end(), is_assistant);
  if (std::count_if(starts.begin(), starts.end(), [](const Start& s) { return s.role == 0; }) != wanted)
    return std::nullopt;

  IdMask mask(ids.size(), 0);
  bool found = false;
  for (size_t i = 0; i < starts.size(); ++i) {
    if (starts[i].role != 0) continue;
    const size_t content = starts[i].at + starts[i].size;
    const std::vector<End> ends =
        ends_between(ids, markers, content, i + 1 < starts.size() ? starts[i + 1].at : ids.size());
    if (ends.empty()) continue;
    std::set<size_t> places;
    for (const End& end : ends) places.insert(end.begin);
    if (places.size() != 1) return std::nullopt;
    mark(mask, content, ends[0], contents);  // those of one place are in the order of preference
    found = true;
  }
  if (!found) return std::nullopt;
  return mask;
}

std::optional<IdMask> mask_by_prompts(std::span<const int32_t> ids, const std::vector<Json>& messages,
                                      const RenderMessages& render) {
  IdMask mask(ids.size(), 0);
  bool found = false;
  const auto begins_with = [](std::span<const int32_t> all, const std::optional<std::vector<int32_t>>& part) {
    return part && common_prefix(all, *part) == part->size();
  };
  for (size_t turn = 0; turn < messages.size(); ++turn) {
    if (!is_assistant(messages[turn])) continue;
    if (turn == 0) return std::nullopt;
    const std::optional<std::vector<int32_t>> prompt = render(first(messages, turn), true);
    if (!begins_with(ids, prompt)) return std::nullopt;
    size_t end = ids.size();
    if (turn + 1 < messages.size()) {
      const std::optional<std::vector<int32_t>> through = render(first(messages, turn + 1), false);
      if (!begins_with(ids, through)) return std::nullopt;
      end = through->size();
    } else {
      // What comes behind the last message must be its own, not the beginning of the next.
      std::vector<Json> longer = messages;
      longer.push_back(Json::object({{"role", "user"}, {"content", "?"}}));
      const std::optional<std::vector<int32_t>> after = render(std::move(longer), false);
      if (!after || common_prefix(*after, ids) != ids.size()) return std::nullopt;
    }
    if (prompt->size() >= end) return std::nullopt;
    std::fill(mask.begin() + static_cast<ptrdiff_t>(prompt->size()), mask.begin() + static_cast<ptrdiff_t>(end),
              uint8_t{1});
    found = true;
  }
  if (!found) return std::nullopt;
  return mask;
}

bool contains_marker(const Json& value, const TurnMarkers& markers, const Tokenize& tokenize) {
  switch (value.kind()) {
    case Json::Kind::kString: {
      const std::vector<int32_t> ids = tokenize(value.as_string());
      const auto inside = [&](const std::vector<int32_t>& pattern) {
        return find_ids(ids, pattern, 0) != kNowhere;
      };
      return std::any_of(markers.ends.begin(), markers.ends.end(), inside) ||
             std::any_of(markers.starts.begin(), markers.starts.end(),
                         [&](const auto& s) { return inside(s.second); });
    }
    case Json::Kind::kArray:
      return std::any_of(value.items().begin(), value.items().end(),
                         [&](const Json& item) { return contains_marker(item, markers, tokenize); });
    case Json::Kind::kObject:
      return std::any_of(value.members().begin(), value.members().end(), [&](const Json::Member& member) {
        return contains_marker(member.second, markers, tokenize);
      });
    default: return false;
  }
}

}  // namespace viaduct::data
