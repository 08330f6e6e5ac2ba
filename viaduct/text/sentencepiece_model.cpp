#include "viaduct/text/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::text {
namespace {

// One message of protobuf's wire format, field by field.
class Message {
 public:
  Message(std::string_view content, size_t offset, const std::string& origin)
      : content_(content), offset_(offset), origin_(origin) {}

  // False at the end; else number() and one of the values below are those of the next field.
  bool next() {
    if (at_ == content_.size()) return false;
    const uint64_t key = varint();
    number_ = static_cast<uint32_t>(key >> 3);
    switch (key & 7) {
      case 0: integer_ = varint(); break;
      case 1: take(8); break;
      case 2: bytes_ = take(length()); break;
      case 5: {
        const std::string_view four = take(4);
        std::memcpy(&real_, four.data(), 4);
        break;
      }
      default: fail("a field of no known wire type");
    }
    wire_ = static_cast<int>(key & 7);
    return true;
  }

  uint32_t number() const { return number_; }
  bool flag() const { return of_wire(0), integer_ != 0; }
  int64_t integer() const { return of_wire(0), static_cast<int64_t>(integer_); }
  float real() const { return of_wire(5), real_; }
  std::string text() const { return of_wire(2), std::string(bytes_); }
  Message message() const {
    of_wire(2);
    return {bytes_, offset_ + static_cast<size_t>(bytes_.data() - content_.data()), origin_};
  }

  [[noreturn]] void fail(std::string_view what) const {
    throw UserError(fmt::format("{}: {} at byte {}: this is no sentencepiece model, or it is cut", origin_, what,
                                offset_ + at_));
  }

 private:
  void of_wire(int wanted) const {
    if (wire_ != wanted) fail(fmt::format("field {} has another type than it should", number_));
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of over 64 bits");
  }

  size_t length() {
    const uint64_t size = varint();
    if (size > content_.size() - at_) fail("a field that is longer than the file");
    return static_cast<size_t>(size);
  }

  std::string_view take(size_t size) {
    if (size > content_.size() - at_) fail("the end of the file in the middle of a field");
    at_ += size;
    return content_.substr(at_ - size, size);
  }

  std::string_view content_;
  size_t offset_;
  const std::string& origin_;
  size_t at_ = 0;
  uint32_t number_ = 0;
  int wire_ = 0;
  uint64_t integer_ = 0;
  float real_ = 0;
  std::string_view bytes_;
};

SentencePiece read_piece(Message message) {
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

void read_trainer(Message message, SentencePieceModel& model) {
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

SentencePieceNormalizer read_normalizer(Message message) {
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
  Message message(content, 0, origin);
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
