// Cutting normalised text into pieces: sentencepiece's unigram, BPE, word and char models.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "viaduct/text/piece_trie.h"
#include "viaduct/text/sentencepiece_model.h"

namespace viaduct::text {

/// A part of the normalised text.
struct Segment {
  std::string_view text;
  int32_t id = 0;  // the unknown token's for a part that is no piece
};

/// Cuts text by the scores of a model. Sources: Kudo, "Subword Regularization" (2018), for unigram; Sennrich,
/// Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units" (2016), for BPE.
class SentencePieceSegmentation {
 public:
  /// The model must outlive this.
  explicit SentencePieceSegmentation(const SentencePieceModel& model);
  /// The parts of a normalised text, in order; nothing is left out.
  std::vector<Segment> segment(std::string_view normalized) const;
  /// The id of a piece, or that of the unknown token.
  int32_t id_of(std::string_view piece) const;
  /// That of the unknown token.
  int32_t unknown_id() const { return unknown_id_; }
  /// The pieces that are always cut out whole.
  const PieceTrie& user_defined() const { return user_defined_; }

 private:
  std::vector<Segment> unigram(std::string_view text) const;
  std::vector<Segment> bpe(std::string_view text) const;
  std::vector<Segment> words(std::string_view text) const;
  size_t character_or_symbol(std::string_view text) const;

  const SentencePieceModel& model_;
  std::unordered_map<std::string_view, int32_t> ids_;    // pieces that text can be cut into
  std::unordered_map<std::string_view, int32_t> other_;  // control, unknown and byte pieces
  PieceTrie trie_;                                       // of ids_, for unigram
  PieceTrie user_defined_;
  int32_t unknown_id_ = 0;
  float lowest_score_ = 0;
  float highest_score_ = 0;
};

}  // namespace viaduct::text
