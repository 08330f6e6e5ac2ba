#include "viaduct/text/sentencepiece_segment.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>

#include "viaduct/core/error.h"
#include "viaduct/text/sentencepiece_normalize.h"

namespace viaduct::text {
namespace {

using Type = SentencePiece::Type;

// A character that is no piece costs this much more than the rarest piece.
constexpr float kUnknownPenalty = 10.0f;

}  // namespace

SentencePieceSegmentation::SentencePieceSegmentation(const SentencePieceModel& model) : model_(model) {
  lowest_score_ = std::numeric_limits<float>::max();
  highest_score_ = std::numeric_limits<float>::lowest();
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const SentencePiece& piece = model.pieces[i];
    const auto id = static_cast<int32_t>(i);
    const bool is_text =
        piece.type == Type::kNormal || piece.type == Type::kUserDefined || piece.type == Type::kUnused;
    (is_text ? ids_ : other_).emplace(piece.text, id);
    if (is_text && model.kind == SentencePieceModel::Kind::kUnigram) trie_.add(piece.text, id);
    if (piece.type == Type::kUserDefined) user_defined_.add(piece.text, id);
    if (piece.type == Type::kUnknown) unknown_id_ = id;
    if (piece.type == Type::kNormal) {
      lowest_score_ = std::min(lowest_score_, piece.score);
      highest_score_ = std::max(highest_score_, piece.score);
    }
  }
}

int32_t SentencePieceSegmentation::id_of(std::string_view piece) const {
  if (const auto it = other_.find(piece); it != other_.end()) return it->second;
  const auto it = ids_.find(piece);
  return it == ids_.end() ? unknown_id_ : it->second;
}

size_t SentencePieceSegmentation::character_or_symbol(std::string_view text) const {
  if (const size_t length = user_defined_.longest_prefix(text); length > 0) return length;
  return std::min(character_size(text[0]), text.size());
}

std::vector<Segment> SentencePieceSegmentation::segment(std::string_view normalized) const {
  if (normalized.empty()) return {};
  switch (model_.kind) {
    case SentencePieceModel::Kind::kUnigram: return unigram(normalized);
    case SentencePieceModel::Kind::kBpe: return bpe(normalized);
    case SentencePieceModel::Kind::kWord: return words(normalized);
    case SentencePieceModel::Kind::kChar: break;
  }
  std::vector<Segment> out;
  for (size_t at = 0; at < normalized.size();) {
    const std::string_view piece = normalized.substr(at, character_or_symbol(normalized.substr(at)));
    out.push_back({piece, id_of(piece)});
    at += piece.size();
  }
  return out;
}

std::vector<Segment> SentencePieceSegmentation::words(std::string_view text) const {
  std::vector<Segment> out;
  for (size_t begin = 0; begin < text.size();) {
    // A word carries the space in front of it, or behind it when the model says so.
    const bool suffix = model_.treat_whitespace_as_suffix;
    size_t end = text.find(kSpaceSymbol, begin + (suffix ? 0 : 1));
    if (end == std::string_view::npos)
      end = text.size();
    else if (suffix)
      end += kSpaceSymbol.size();
    const std::string_view word = text.substr(begin, end - begin);
    out.push_back({word, id_of(word)});
    begin = end;
  }
  return out;
}

std::vector<Segment> SentencePieceSegmentation::unigram(std::string_view text) const {
  // The best way to every position, from left to right (Viterbi). Scores are floats as in sentencepiece, so that
  // ties are broken alike.
  struct Way {
    float score = 0;
    int64_t from = -1;
    int32_t id = -1;
  };
  std::vector<Way> best(text.size() + 1);
  const float unknown_score = lowest_score_ - kUnknownPenalty;
  for (size_t begin = 0; begin < text.size();) {
    const float before = best[begin].score;
    const size_t character = std::min(character_size(text[begin]), text.size() - begin);
    bool has_character = false;
    PieceTrie::Node node = 0;
    for (size_t end = begin + 1; end <= text.size(); ++end) {
      node = trie_.step(node, text[end - 1]);
      if (node == PieceTrie::kNowhere) break;
      const int32_t id = trie_.value(node);
      if (id < 0) continue;
      const SentencePiece& piece = model_.pieces[static_cast<size_t>(id)];
      if (piece.type == Type::kUnused) continue;
      const size_t length = end - begin;
      // A symbol of the user's beats every other way.
      const float score = piece.type == Type::kUserDefined
                              ? static_cast<float>(static_cast<float>(length) * highest_score_ - 0.1)
                              : piece.score;
      const float candidate = score + before;
      if (best[end].from < 0 || candidate > best[end].score)
        best[end] = {candidate, static_cast<int64_t>(begin), id};
      if (length == character) has_character = true;
    }
    if (!has_character) {
      Way& way = best[begin + character];
      const float candidate = unknown_score + before;
      if (way.from < 0 || candidate > way.score) way = {candidate, static_cast<int64_t>(begin), unknown_id_};
    }
    begin += character;
  }
  std::vector<Segment> out;
  for (size_t end = text.size(); end > 0;) {
    const Way& way = best[end];
    VIADUCT_CHECK(way.from >= 0, "no way to byte {}", end);
    const auto begin = static_cast<size_t>(way.from);
    out.push_back({text.substr(begin, end - begin), way.id});
    end = begin;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Segment> SentencePieceSegmentation::bpe(std::string_view text) const {
  struct Symbol {
    std::string_view piece;
    int64_t previous, next;
    bool whole;  // the user's symbol: never merged
  };
  struct Pair {
    float score;
    int64_t left, right;
    size_t size;  // of both when they were joined: tells a pair that is gone
    bool operator<(const Pair& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  for (size_t at = 0; at < text.size();) {
    const size_t symbol = user_defined_.longest_prefix(text.substr(at));
    const size_t size = symbol > 0 ? symbol : std::min(character_size(text[at]), text.size() - at);
    const auto index = static_cast<int64_t>(symbols.size());
    at += size;
    symbols.push_back({text.substr(at - size, size), index - 1, at < text.size() ? index + 1 : -1, symbol > 0});
  }
  std::priority_queue<Pair> agenda;
  // What an unused piece was joined from: it is taken apart again.
  std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>> unused;
  const auto consider = [&](int64_t left, int64_t right) {
    if (left < 0 || right < 0) return;
    const Symbol &a = symbols[static_cast<size_t>(left)], &b = symbols[static_cast<size_t>(right)];
    if (a.whole || b.whole) return;
    const std::string_view joined(a.piece.data(), a.piece.size() + b.piece.size());
    const auto it = ids_.find(joined);
    if (it == ids_.end()) return;
    const SentencePiece& piece = model_.pieces[static_cast<size_t>(it->second)];
    agenda.push({piece.score, left, right, joined.size()});
    if (piece.type == Type::kUnused) unused[joined] = {a.piece, b.piece};
  };
  for (size_t i = 1; i < symbols.size(); ++i) consider(static_cast<int64_t>(i) - 1, static_cast<int64_t>(i));
  while (!agenda.empty()) {
    const Pair top = agenda.top();
    agenda.pop();
    Symbol &left = symbols[static_cast<size_t>(top.left)], &right = symbols[static_cast<size_t>(top.right)];
    if (left.piece.empty() || right.piece.empty() || left.piece.size() + right.piece.size() != top.size) continue;
    left.piece = {left.piece.data(), top.size};
    left.next = right.next;
    if (right.next >= 0) symbols[static_cast<size_t>(right.next)].previous = top.left;
    right.piece = {};
    consider(left.previous, top.left);
    consider(top.left, left.next);
  }
  std::vector<Segment> out;
  std::vector<std::string_view> parts;
  for (int64_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    parts.assign(1, symbols[static_cast<size_t>(i)].piece);
    while (!parts.empty()) {
      const std::string_view piece = parts.back();
      parts.pop_back();
      const int32_t id = id_of(piece);
      const auto apart = unused.find(piece);
      if (model_.pieces[static_cast<size_t>(id)].type == Type::kUnused && apart != unused.end()) {
        parts.push_back(apart->second.second);
        parts.push_back(apart->second.first);
      } else {
        out.push_back({piece, id});
      }
    }
  }
  return out;
}

}  // namespace viaduct::text
