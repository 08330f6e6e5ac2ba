// Protobuf's wire format: messages read field by field, and written, without a schema.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace viaduct::formats {

/// What messages say of a text that is not what it should be.
struct ProtoOrigin {
  std::string name;  // the file, or where in it
  std::string kind;  // "sentencepiece model"
};

/// A message that is read field by field; views into the text that it is made of.
class ProtoReader {
 public:
  /// `content` lies at `offset` of what `origin` names; both outlive the reader.
  ProtoReader(std::string_view content, size_t offset, const ProtoOrigin& origin)
      : content_(content), offset_(offset), origin_(origin) {}

  /// False at the end; else number() and one of the values below are those of the next field. UserError "<name>:
  /// <what> at byte <offset>: this is no <kind>, or it is cut".
  bool next();

  /// The number that the field has in its message's definition.
  uint32_t number() const { return number_; }
  /// Is the field one of a length (text, bytes, a message, packed numbers)?
  bool is_bytes() const { return wire_ == 2; }

  /// The field's value; UserError when it is of another wire type.
  bool flag() const { return of_wire(0), integer_ != 0; }
  int64_t integer() const { return of_wire(0), static_cast<int64_t>(integer_); }
  float real() const;          // float
  double double_real() const;  // double
  std::string text() const { return of_wire(2), std::string(bytes_); }
  std::string_view bytes() const { return of_wire(2), bytes_; }
  ProtoReader message() const;

  /// UserError that says `what` is wrong, and where.
  [[noreturn]] void fail(std::string_view what) const;

 private:
  void of_wire(int wanted) const;
  uint64_t varint();
  size_t length();
  std::string_view take(size_t size);

  std::string_view content_;
  size_t offset_;
  const ProtoOrigin& origin_;
  size_t at_ = 0;
  uint32_t number_ = 0;
  int wire_ = 0;
  uint64_t integer_ = 0;
  std::string_view bytes_;
};

/// A message that is written field by field, in the order of the calls.
class ProtoWriter {
 public:
  /// A field of type int64, uint64, bool or an enumeration.
  ProtoWriter& integer(uint32_t number, int64_t value);
  /// A field of type float or double.
  ProtoWriter& real(uint32_t number, float value);
  /// As real.
  ProtoWriter& double_real(uint32_t number, double value);
  /// A field of type string or bytes, or a message that was written before.
  ProtoWriter& bytes(uint32_t number, std::string_view value);
  /// As bytes.
  ProtoWriter& message(uint32_t number, const ProtoWriter& value) { return bytes(number, value.out_); }

  /// What was written.
  const std::string& content() const { return out_; }

 private:
  void key(uint32_t number, int wire);
  void varint(uint64_t value);
  std::string out_;
};

}  // namespace viaduct::formats
