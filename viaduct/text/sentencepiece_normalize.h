// sentencepiece's normalisation: rules of a precompiled map, spaces, the dummy prefix.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/text/piece_trie.h"
#include "viaduct/text/sentencepiece_model.h"

namespace viaduct::text {

/// U+2581, which stands for a space in pieces.
inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

/// Text as it is cut, with where it came from.
struct NormalizedText {
  std::string text;
  /// For each byte of `text`, and its end: the byte of the original text.
  std::vector<uint32_t> origin;
};

/// Normalises text by a model's rules.
class SentencePieceNormalization {
 public:
  /// `user_defined`: the pieces that no rule may touch. Both must outlive this. UserError naming `origin` for rules
  /// that are cut.
  SentencePieceNormalization(const SentencePieceModel& model, const PieceTrie& user_defined,
                             const std::string& origin);
  /// `dummy_prefix` false: no space is put at the beginning even when the model wants one.
  NormalizedText normalize(std::string_view text, bool dummy_prefix = true) const;

 private:
  struct Replaced {
    std::string_view by;
    size_t length;  // bytes of the text that are replaced
  };
  Replaced replace_prefix(std::string_view text) const;

  const SentencePieceModel& model_;
  const PieceTrie& user_defined_;
  std::vector<uint32_t> units_;  // darts-clone's double array
  std::string_view targets_;     // texts that are put in, each ended by a zero
};

/// Bytes of the UTF-8 character that begins with this byte.
size_t character_size(char lead);

}  // namespace viaduct::text
