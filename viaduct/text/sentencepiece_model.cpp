#include "viaduct/text/sentencepiece_model.h"

#include <cmath>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/protobuf.h"

namespace viaduct::text {
namespace {

using formats::ProtoReader;

SentencePiece read_piece(ProtoReader message) {
  SentencePiece piece;
  while (message.next()) {
    switch (message.number()) {
      case 1: piece.text = message.text(); break;
      case 2: piece.score = message.real(); break;
      case 3: {
        const int64_t type = message.integer();
        if (type < 1 || type > 6) message.fail("a piece of no known type");
        piece.type = static_cast<SentencePiece::Type>(type);
        break;
      }
      default: break;
    }
  }
  if (piece.text.empty()) message.fail("an empty piece");
  if (!std::isfinite(piece.score)) message.fail("a score that is no number");
  return piece;
}

void read_trainer(ProtoReader message, SentencePieceModel& model) {
  while (message.next()) {
    switch (message.number()) {
      case 3: {
        const int64_t kind = message.integer();
        if (kind < 1 || kind > 4) message.fail("a model of no known type");
        model.kind = static_cast<SentencePieceModel::Kind>(kind);
        break;
      }
      case 24: model.treat_whitespace_as_suffix = message.flag(); break;
      case 35: model.byte_fallback = message.flag(); break;
      case 44: model.unk_surface = message.text(); break;
      case 45: model.unk_piece = message.text(); break;
      case 46: model.bos_piece = message.text(); break;
      case 47: model.eos_piece = message.text(); break;
      case 48: model.pad_piece = message.text(); break;
      default: break;
    }
  }
}

SentencePieceNormalizer read_normalizer(ProtoReader message) {
  SentencePieceNormalizer normalizer;
  while (message.next()) {
    switch (message.number()) {
      case 2: normalizer.charsmap = message.text(); break;
      case 3: normalizer.add_dummy_prefix = message.flag(); break;
      case 4: normalizer.remove_extra_whitespaces = message.flag(); break;
      case 5: normalizer.escape_whitespaces = message.flag(); break;
      default: break;
    }
  }
  return normalizer;
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view content, const std::string& origin) {
  SentencePieceModel model;
  const formats::ProtoOrigin proto_origin{origin, "sentencepiece model"};
  ProtoReader message(content, 0, proto_origin);
  while (message.next()) {
    switch (message.number()) {
      case 1: model.pieces.push_back(read_piece(message.message())); break;
      case 2: read_trainer(message.message(), model); break;
      case 3: model.normalizer = read_normalizer(message.message()); break;
      case 5: model.has_denormalizer = !read_normalizer(message.message()).charsmap.empty(); break;
      default: break;
    }
  }
  std::unordered_set<std::string_view> seen;
  int unknown = 0;
  for (const SentencePiece& piece : model.pieces) {
    VIADUCT_USER_CHECK(is_utf8(piece.text), "{}: piece {} is not UTF-8", origin, seen.size());
    VIADUCT_USER_CHECK(seen.insert(piece.text).second, "{}: the piece '{}' is there twice", origin, piece.text);
    unknown += piece.type == SentencePiece::Type::kUnknown;
  }
  VIADUCT_USER_CHECK(unknown == 1, "{}: a sentencepiece model has one unknown token, this file has {}", origin,
                     unknown);
  return model;
}

}  // namespace viaduct::text
