// The content of a sentencepiece .model file: a protobuf message (sentencepiece_model.proto), read without
// protobuf.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace viaduct::text {

/// One entry of the vocabulary.
struct SentencePiece {
  /// The numbers that the file uses.
  enum class Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  std::string text;
  float score = 0;
  Type type = Type::kNormal;
};

/// How text is changed before it is cut.
struct SentencePieceNormalizer {
  std::string charsmap;  // precompiled rules: a double-array trie and the texts it leads to; empty: none
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// A whole file; defaults are those of the message.
struct SentencePieceModel {
  /// How text is cut, by the numbers that the file uses.
  enum class Kind { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  std::vector<SentencePiece> pieces;  // by id
  Kind kind = Kind::kUnigram;
  bool byte_fallback = false;
  bool treat_whitespace_as_suffix = false;
  std::string unk_surface = " \xE2\x81\x87 ";  // what the unknown token decodes to
  std::string unk_piece = "<unk>", bos_piece = "<s>", eos_piece = "</s>", pad_piece = "<pad>";
  SentencePieceNormalizer normalizer;
  bool has_denormalizer = false;  // rules for decoded text
};

/// Reads a file's content. UserError "<origin>: <what> at byte <offset>" for one that is cut or broken, has no
/// unknown token or has a piece twice.
SentencePieceModel parse_sentencepiece_model(std::string_view content, const std::string& origin);

}  // namespace viaduct::text
