#include "viaduct/formats/pickle_writer.h"

#include <bit>
#include <limits>

#include "viaduct/core/error.h"

namespace viaduct::formats {

namespace {
template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}
constexpr size_t kFrameHeader = 11;  // PROTO, FRAME and its length
}  // namespace

PickleWriter::PickleWriter(int protocol) : protocol_(protocol) {
  VIADUCT_CHECK(protocol == 2 || protocol == 4, "pickle protocol {}", protocol);
  out_ += '\x80';
  out_ += static_cast<char>(protocol);
  if (protocol == 4) {
    out_ += '\x95';
    out_.append(8, '\0');
  }
}

void PickleWriter::remember_container() {
  if (protocol_ == 2) remember();
}

void PickleWriter::remember() {
  const uint32_t number = memo_size_++;
  if (protocol_ == 4) {
    out_ += '\x94';
  } else if (number < 256) {
    out_ += 'q';
    out_ += static_cast<char>(number);
  } else {
    out_ += 'r';
    put(out_, number);
  }
}

void PickleWriter::recall(uint32_t number) {
  if (number < 256) {
    out_ += 'h';
    out_ += static_cast<char>(number);
  } else {
    out_ += 'j';
    put(out_, number);
  }
}

void PickleWriter::integer(int64_t value) {
  if (value >= 0 && value < 256) {
    out_ += 'K';
    out_ += static_cast<char>(value);
  } else if (value >= 0 && value < 65536) {
    out_ += 'M';
    put(out_, static_cast<uint16_t>(value));
  } else if (value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max()) {
    out_ += 'J';
    put(out_, static_cast<uint32_t>(value));
  } else {
    // The fewest bytes that keep the sign.
    int size = 8;
    while (size > 1 && (value >> (8 * (size - 1) - 1) == 0 || value >> (8 * (size - 1) - 1) == -1)) --size;
    out_ += '\x8a';
    out_ += static_cast<char>(size);
    for (int i = 0; i < size; ++i) out_ += static_cast<char>(value >> (8 * i));
  }
}

void PickleWriter::floating(double value) {
  out_ += 'G';
  put(out_, __builtin_bswap64(std::bit_cast<uint64_t>(value)));
}

uint32_t PickleWriter::string(std::string_view text) {
  auto it = strings_.find(text);
  if (it != strings_.end()) {
    recall(it->second);
    return it->second;
  }
  it = strings_.emplace(text, memo_size_).first;
  if (protocol_ == 4 && text.size() < 256) {
    out_ += '\x8c';
    out_ += static_cast<char>(text.size());
  } else {
    VIADUCT_CHECK(text.size() <= std::numeric_limits<uint32_t>::max(), "a text of {} bytes", text.size());
    out_ += 'X';
    put(out_, static_cast<uint32_t>(text.size()));
  }
  out_ += text;
  remember();
  return it->second;
}

void PickleWriter::bytes(std::string_view bytes) {
  VIADUCT_CHECK(bytes.size() <= std::numeric_limits<uint32_t>::max(), "{} bytes in a pickle", bytes.size());
  if (protocol_ == 2) {
    // Protocol 2 has no bytes: Python writes a call that makes them of Latin-1 text.
    global("_codecs", "encode");
    std::string text;
    for (const char byte : bytes) {
      const auto c = static_cast<uint8_t>(byte);
      if (c < 0x80) {
        text += byte;
      } else {
        text += static_cast<char>(0xc0 | c >> 6);
        text += static_cast<char>(0x80 | (c & 63));
      }
    }
    string(text);
    string("latin1");
    tuple(2);
    return call();
  }
  out_ += 'B';
  put(out_, static_cast<uint32_t>(bytes.size()));
  out_ += bytes;
  remember();
}

void PickleWriter::global(std::string_view module, std::string_view name) {
  key_.assign(module);
  key_ += '\n';
  key_ += name;
  if (const auto it = globals_.find(std::string_view(key_)); it != globals_.end()) return recall(it->second);
  if (protocol_ == 4) {
    string(module);
    string(name);
    out_ += '\x93';
  } else {
    out_ += 'c';
    out_ += key_;
    out_ += '\n';
  }
  globals_.emplace(key_, memo_size_);
  remember();
}

void PickleWriter::empty_list() {
  out_ += ']';
  remember_container();
}

void PickleWriter::empty_dict() {
  out_ += '}';
  remember_container();
}

void PickleWriter::tuple(size_t count) {
  if (count == 0) return empty_tuple();
  out_ += count == 1 ? '\x85' : count == 2 ? '\x86' : count == 3 ? '\x87' : 't';
  remember_container();
}

void PickleWriter::call() {
  out_ += 'R';
  remember_container();
}

void PickleWriter::new_object() {
  out_ += '\x81';
  remember_container();
}

std::string PickleWriter::finish() {
  out_ += '.';
  if (protocol_ == 4) {
    const uint64_t frame = out_.size() - kFrameHeader;
    for (size_t i = 0; i < 8; ++i) out_[3 + i] = static_cast<char>(frame >> (8 * i));
  }
  return std::move(out_);
}

namespace {

using TensorWriterFunction = std::function<void(PickleWriter&, const PickleTensor&)>;

void write_items(PickleWriter& to, const std::vector<PickleValue>& items, const TensorWriterFunction& tensor) {
  if (items.empty()) return;
  if (items.size() > 1) to.mark();
  for (const PickleValue& item : items) write_value(to, item, tensor);
  if (items.size() > 1)
    to.appends();
  else
    to.append();
}

void write_members(PickleWriter& to, const std::vector<PickleValue::Member>& members,
                   const TensorWriterFunction& tensor) {
  if (members.empty()) return;
  if (members.size() > 1) to.mark();
  for (const auto& [key, value] : members) {
    write_value(to, key, tensor);
    write_value(to, value, tensor);
  }
  if (members.size() > 1)
    to.set_items();
  else
    to.set_item();
}

void write_tuple(PickleWriter& to, const std::vector<PickleValue>& items, const TensorWriterFunction& tensor) {
  if (items.size() > 3) to.mark();
  for (const PickleValue& item : items) write_value(to, item, tensor);
  to.tuple(items.size());
}

void write_global(PickleWriter& to, const std::string& dotted) {
  const size_t dot = dotted.rfind('.');
  VIADUCT_CHECK(dot != std::string::npos, "the global {} has no module", dotted);
  to.global(std::string_view(dotted).substr(0, dot), std::string_view(dotted).substr(dot + 1));
}

}  // namespace

void write_value(PickleWriter& to, const PickleValue& value, const TensorWriterFunction& tensor) {
  switch (value.kind()) {
    case PickleValue::Kind::kNone: return to.none();
    case PickleValue::Kind::kBool: return to.boolean(value.as_bool());
    case PickleValue::Kind::kInt: return to.integer(value.as_int());
    case PickleValue::Kind::kBigInt: VIADUCT_CHECK(false, "integers beyond 64 bits are read, not written"); return;
    case PickleValue::Kind::kFloat: return to.floating(value.as_double());
    case PickleValue::Kind::kString: to.string(value.text()); return;
    case PickleValue::Kind::kBytes: return to.bytes(value.text());
    case PickleValue::Kind::kList: to.empty_list(); return write_items(to, value.items(), tensor);
    case PickleValue::Kind::kTuple: return write_tuple(to, value.items(), tensor);
    case PickleValue::Kind::kSet:
      // As protocol 2 has it; both protocols read it.
      to.global("builtins", "set");
      to.empty_list();
      write_items(to, value.items(), tensor);
      to.tuple(1);
      return to.call();
    case PickleValue::Kind::kDict: to.empty_dict(); return write_members(to, value.members(), tensor);
    case PickleValue::Kind::kTensor:
      VIADUCT_CHECK(static_cast<bool>(tensor), "a tensor in a pickle without storages");
      return tensor(to, value.as_tensor());
    case PickleValue::Kind::kGlobal: return write_global(to, value.text());
    case PickleValue::Kind::kObject:
      write_global(to, value.text());
      write_tuple(to, value.arguments(), tensor);
      to.call();
      write_items(to, value.items(), tensor);
      write_members(to, value.members(), tensor);
      if (!value.state().is_none()) {
        write_value(to, value.state(), tensor);
        to.build();
      }
      return;
  }
}

std::string write_pickle(const PickleValue& value, int protocol) {
  PickleWriter writer(protocol);
  write_value(writer, value);
  return writer.finish();
}

}  // namespace viaduct::formats
