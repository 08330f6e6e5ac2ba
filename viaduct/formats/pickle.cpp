#include "viaduct/formats/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/pickle_text.h"

namespace viaduct::formats {

struct PickleNode::Sequence {
  PickleNode* items = nullptr;
  uint32_t size = 0;  // of a dict: keys and values
  uint32_t capacity = 0;
};

struct PickleNode::Call {
  PickleNode callable, arguments, state;
  PickleNode* items = nullptr;  // two, where there are any: appended (a list), members (a dict)
};

/// Memory that lives as long as the document, with a bound on its sum.
class PickleDocument::Arena {
 public:
  Arena(std::string bytes, uint64_t limit) : bytes_(std::move(bytes)), limit_(limit) {}

  const std::string& bytes() const { return bytes_; }
  uint64_t used() const { return used_; }
  uint64_t limit() const { return limit_; }

  template <class T>
  T* make(size_t count = 1) {
    char* at = allocate(count * sizeof(T));
    return std::uninitialized_value_construct_n(reinterpret_cast<T*>(at), count), reinterpret_cast<T*>(at);
  }
  char* allocate(size_t size) {
    size = (size + 7) / 8 * 8;
    if (size > left_) {
      const size_t block = std::max<size_t>(size, std::clamp<size_t>(used_ / 4, 4096, 4u << 20));
      VIADUCT_USER_CHECK(used_ + block <= limit_, "the objects need more than {} bytes of memory", limit_);
      blocks_.push_back(std::make_unique_for_overwrite<char[]>(block));
      used_ += block;
      next_ = blocks_.back().get();
      left_ = block;
    }
    char* at = next_;
    next_ += size;
    left_ -= size;
    return at;
  }

 private:
  std::string bytes_;
  uint64_t limit_;
  uint64_t used_ = 0;
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

size_t PickleNode::size() const {
  if (kind_ == Kind::kDict) return u_.sequence->size / 2;
  if (kind_ == Kind::kList || kind_ == Kind::kTuple || kind_ == Kind::kSet) return u_.sequence->size;
  return 0;
}
PickleNode PickleNode::item(size_t i) const { return u_.sequence->items[i]; }
PickleNode PickleNode::key(size_t i) const { return u_.sequence->items[2 * i]; }
PickleNode PickleNode::value(size_t i) const { return u_.sequence->items[2 * i + 1]; }
const PickleNode* PickleNode::find(std::string_view key) const {
  if (kind_ != Kind::kDict) return nullptr;
  for (size_t i = size(); i-- > 0;) {
    const PickleNode& k = u_.sequence->items[2 * i];
    if (k.kind_ == Kind::kString && k.text() == key) return &u_.sequence->items[2 * i + 1];
  }
  return nullptr;
}
PickleNode PickleNode::callable() const { return u_.call->callable; }
PickleNode PickleNode::arguments() const { return u_.call->arguments; }
PickleNode PickleNode::state() const { return u_.call->state; }
PickleNode PickleNode::appended() const { return u_.call->items ? u_.call->items[0] : PickleNode(); }
PickleNode PickleNode::members() const { return u_.call->items ? u_.call->items[1] : PickleNode(); }
bool PickleNode::is_call_of(std::string_view global) const {
  return kind_ == Kind::kCall && u_.call->callable.kind_ == Kind::kGlobal && u_.call->callable.text() == global;
}
PickleNode PickleNode::persistent_id() const { return *u_.persistent; }

PickleDocument::PickleDocument() = default;
PickleDocument::PickleDocument(PickleDocument&&) noexcept = default;
PickleDocument& PickleDocument::operator=(PickleDocument&&) noexcept = default;
PickleDocument::~PickleDocument() = default;

/// The stack machine. Nothing here recurses, and each opcode makes at most a constant number of nodes beyond what
/// it takes from the stack.
class Unpickler {
 public:
  using Node = PickleNode;
  using Kind = PickleNode::Kind;

  Unpickler(PickleDocument::Arena& arena, const PickleOptions& options)
      : arena_(arena), bytes_(arena.bytes()), options_(options) {}

  PickleNode run() {
    while (true) {
      op_at_ = at_;
      const auto op = static_cast<uint8_t>(take(1)[0]);
      if (op == '.') {
        if (stack_.size() <= base()) fail("STOP with nothing on the stack");
        return pop();
      }
      step(op);
      check_memory();
    }
  }
  size_t position() const { return at_; }
  size_t failed_at() const { return op_at_; }

 private:
  [[noreturn]] void fail(std::string_view what) const { throw UserError(std::string(what)); }

  void check_memory() {
    if ((stack_.capacity() + memo_.capacity()) * sizeof(Node) + far_memo_.size() * 64 + marks_.capacity() * 8 +
            arena_.used() >
        arena_.limit())
      fail(fmt::format("the objects need more than {} bytes of memory", arena_.limit()));
  }

  // While a vector grows, the old and the new one are there.
  template <class T>
  void check_growth(const std::vector<T>& vector, size_t size) const {
    if (size > vector.capacity() &&
        (vector.capacity() + std::max(size, 2 * vector.capacity())) * sizeof(T) + arena_.used() > arena_.limit())
      fail(fmt::format("the objects need more than {} bytes of memory", arena_.limit()));
  }

  // ---- bytes
  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_)
      fail(fmt::format("{} bytes wanted, {} are left: the pickle is truncated", count, bytes_.size() - at_));
    const std::string_view result = bytes_.substr(at_, count);
    at_ += count;
    return result;
  }
  template <class T>
  T little() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) fail("a line without end: the pickle is truncated");
    const std::string_view text = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }

  // ---- stack. Values below the last mark belong to what is outside of it.
  size_t base() const { return marks_.empty() ? 0 : marks_.back(); }
  void push(Node node) {
    check_growth(stack_, stack_.size() + 1);
    stack_.push_back(node);
  }
  Node pop() {
    if (stack_.size() <= base()) fail("the stack is empty");
    const Node node = stack_.back();
    stack_.pop_back();
    return node;
  }
  Node& top() {
    if (stack_.size() <= base()) fail("the stack is empty");
    return stack_.back();
  }
  size_t pop_mark() {
    if (marks_.empty()) fail("no MARK on the stack");
    const size_t from = marks_.back();
    marks_.pop_back();
    return from;
  }

  // ---- nodes
  static Node integer(int64_t value) {
    Node node;
    node.kind_ = Kind::kInt;
    node.u_.integer = value;
    return node;
  }
  static Node boolean(bool value) {
    Node node = integer(value);
    node.kind_ = Kind::kBool;
    return node;
  }
  static Node floating(double value) {
    Node node;
    node.kind_ = Kind::kFloat;
    node.u_.floating = value;
    return node;
  }
  Node text(Kind kind, std::string_view value) const {
    if (value.size() > std::numeric_limits<uint32_t>::max()) fail("a text of more than 4 GiB");
    Node node;
    node.kind_ = kind;
    node.length_ = static_cast<uint32_t>(value.size());
    node.u_.text = value.data();
    return node;
  }
  Node utf8(std::string_view value) const {
    if (!is_utf8(value)) fail("a text that is not UTF-8");
    return text(Kind::kString, value);
  }
  std::string_view keep(std::string_view value) {
    if (value.empty()) return "";  // an arena that has given nothing yet has no address
    char* at = arena_.allocate(value.size());
    std::memcpy(at, value.data(), value.size());
    return {at, value.size()};
  }
  Node sequence(Kind kind, size_t from) {
    Node node;
    node.kind_ = kind;
    node.u_.sequence = arena_.make<Node::Sequence>();
    append(node.u_.sequence, from);
    return node;
  }
  // Moves what is on the stack from `from` on to the end of the sequence.
  void append(Node::Sequence* to, size_t from) {
    const size_t count = stack_.size() - from;
    if (count > std::numeric_limits<uint32_t>::max() - to->size) fail("more than 2^32 items");
    if (to->size + count > to->capacity) {
      const size_t grown = to->size == 0 ? count : std::max<size_t>(to->size + count, size_t{to->capacity} * 2);
      Node* items = arena_.make<Node>(grown);
      if (to->size > 0) std::memcpy(static_cast<void*>(items), to->items, to->size * sizeof(Node));
      to->items = items;
      to->capacity = static_cast<uint32_t>(std::min<size_t>(grown, std::numeric_limits<uint32_t>::max()));
    }
    std::copy(stack_.begin() + static_cast<ptrdiff_t>(from), stack_.end(), to->items + to->size);
    to->size += static_cast<uint32_t>(count);
    stack_.resize(from);
  }
  Node tuple(size_t count) {
    if (stack_.size() < base() + count) fail("the stack is empty");
    return sequence(Kind::kTuple, stack_.size() - count);
  }
  Node empty(Kind kind) { return sequence(kind, stack_.size()); }
  // Tuples never change, so one empty one serves all.
  Node empty_tuple() {
    if (empty_tuple_.is_none()) empty_tuple_ = empty(Kind::kTuple);
    return empty_tuple_;
  }

  Node global(std::string_view module, std::string_view name) {
    if (module.empty() || name.empty() || module.size() + name.size() > 1000 || !is_utf8(module) || !is_utf8(name))
      fail("a global without a proper name");
    const bool dangerous = is_dangerous_global(module, name);
    if (dangerous)
      fail(fmt::format(
          "the pickle names {}.{}{}, which can run programs or code: refused. Nothing was run. Do not load "
          "this file in Python",
          module, name, module == "posix" || module == "nt" ? fmt::format(" (os.{})", name) : ""));
    if (options_.unknown == PickleOptions::Unknown::kRefuse && !is_allowed_global(module, name))
      fail(fmt::format(
          "the pickle names {}.{}, which is not among the classes that a state dict needs: refused. Save "
          "the file again with tensors and plain Python values only",
          module, name));
    char* at = arena_.allocate(module.size() + 1 + name.size());
    std::memcpy(at, module.data(), module.size());
    at[module.size()] = '.';
    std::memcpy(at + module.size() + 1, name.data(), name.size());
    return text(Kind::kGlobal, {at, module.size() + 1 + name.size()});
  }
  Node call(Node callable, Node arguments) {
    if (callable.kind_ != Kind::kGlobal) fail("a call of something that is not a class or function by name");
    if (arguments.kind_ != Kind::kTuple) fail("a call whose arguments are no tuple");
    Node node;
    node.kind_ = Kind::kCall;
    node.u_.call = arena_.make<Node::Call>();
    node.u_.call->callable = callable;
    node.u_.call->arguments = arguments;
    return node;
  }

  // ---- memo
  void put(uint64_t index) {
    const Node node = top();
    // Python numbers them one after the other; an index far beyond that must not cost memory for those between.
    if (index < 2 * puts_ + 1024) {
      if (index >= memo_.size()) {
        check_growth(memo_, index + 1);
        memo_.resize(index + 1);
        known_.resize(index + 1);
      }
      memo_[index] = node;
      known_[index] = true;
    } else {
      far_memo_[index] = node;
    }
    ++puts_;
  }
  Node get(uint64_t index) const {
    if (index < memo_.size() && known_[index]) return memo_[index];
    const auto it = far_memo_.find(index);
    if (it == far_memo_.end()) fail(fmt::format("memo entry {} was never made", index));
    return it->second;
  }

  // ---- opcodes with text arguments
  Node long_bytes(std::string_view little_endian) const {
    if (little_endian.size() > 8) return text(Kind::kBigInt, little_endian);
    uint64_t value = 0;
    for (size_t i = 0; i < little_endian.size(); ++i)
      value |= uint64_t{static_cast<uint8_t>(little_endian[i])} << (8 * i);
    const int bits = static_cast<int>(8 * little_endian.size());
    if (bits == 0) return integer(0);
    return integer(static_cast<int64_t>(value << (64 - bits)) >> (64 - bits));
  }
  Node raw_unicode(std::string_view raw) { return utf8(keep(decode_raw_unicode(raw))); }
  Node quoted(std::string_view raw) {
    const std::string value = decode_quoted(raw);
    return text(is_utf8(value) ? Kind::kString : Kind::kBytes, keep(value));
  }
  // BINSTRING: Python 2's str, which is text or bytes.
  Node old_string(std::string_view raw) { return text(is_utf8(raw) ? Kind::kString : Kind::kBytes, raw); }

  void build() {
    const Node state = pop();
    Node& target = top();
    if (target.kind_ != Kind::kCall) fail("BUILD of something that is no object");
    if (!target.u_.call->state.is_none()) fail("BUILD of one object twice");
    target.u_.call->state = state;
  }
  Node* items_of(const Node& call) {
    if (call.u_.call->items == nullptr) call.u_.call->items = arena_.make<Node>(2);
    return call.u_.call->items;
  }
  void append_items(size_t from) {
    if (from <= base()) fail("nothing to append to");
    const Node target = stack_[from - 1];
    if (target.kind_ == Kind::kList) return append(target.u_.sequence, from);
    if (target.kind_ != Kind::kCall) fail("an item appended to something that is no list");
    Node& appended = items_of(target)[0];
    if (appended.is_none())
      appended = sequence(Kind::kList, from);
    else
      append(appended.u_.sequence, from);
  }
  void set_items(size_t from) {
    if (from <= base()) fail("nothing to set items of");
    if ((stack_.size() - from) % 2 != 0) fail("a key without value");
    const Node target = stack_[from - 1];
    if (target.kind_ == Kind::kDict) return append(target.u_.sequence, from);
    if (target.kind_ != Kind::kCall) fail("an item set in something that is no dict");
    Node& members = items_of(target)[1];
    if (members.is_none())
      members = sequence(Kind::kDict, from);
    else
      append(members.u_.sequence, from);
  }
  void add_to_set(size_t from) {
    if (from <= base()) fail("nothing to add to");
    const Node target = stack_[from - 1];
    if (target.kind_ != Kind::kSet) fail("an item added to something that is no set");
    append(target.u_.sequence, from);
  }
  void stack_global() {
    const Node name = pop(), module = pop();
    if (name.kind_ != Kind::kString || module.kind_ != Kind::kString) fail("STACK_GLOBAL without two texts");
    push(global(module.text(), name.text()));
  }
  void object_from_mark(size_t from, Node callable) {
    const Node arguments = sequence(Kind::kTuple, from);
    push(call(callable, arguments));
  }
  Node persistent(Node id) {
    Node node;
    node.kind_ = Kind::kPersistent;
    node.u_.persistent = arena_.make<Node>();
    *node.u_.persistent = id;
    return node;
  }

  void step(uint8_t op);

  PickleDocument::Arena& arena_;
  std::string_view bytes_;
  const PickleOptions& options_;
  size_t at_ = 0;
  size_t op_at_ = 0;
  std::vector<Node> stack_;
  std::vector<size_t> marks_;
  Node empty_tuple_;
  std::vector<Node> memo_;
  std::vector<bool> known_;
  uint64_t puts_ = 0;
  std::unordered_map<uint64_t, Node> far_memo_;
};

void Unpickler::step(uint8_t op) {
  switch (op) {
    case 0x80: {  // PROTO
      const auto protocol = little<uint8_t>();
      if (protocol > 5) fail(fmt::format("pickle protocol {}; 0 to 5 are known", protocol));
      break;
    }
    case 0x95:  // FRAME: only a hint for buffering, but never longer than what is there
      if (little<uint64_t>() > bytes_.size() - at_) fail("a FRAME that reaches beyond the end");
      break;
    // Constants and numbers
    case 'N': push({}); break;
    case 0x88: push(boolean(true)); break;
    case 0x89: push(boolean(false)); break;
    case 'I': {
      const std::string_view text = line();
      push(text == "00" ? boolean(false) : text == "01" ? boolean(true) : integer(parse_decimal(text)));
      break;
    }
    case 'L': push(integer(parse_decimal(line()))); break;
    case 'J': push(integer(little<int32_t>())); break;
    case 'K': push(integer(little<uint8_t>())); break;
    case 'M': push(integer(little<uint16_t>())); break;
    case 0x8a: push(long_bytes(take(little<uint8_t>()))); break;
    case 0x8b: {
      const auto size = little<int32_t>();
      if (size < 0) fail("an int of negative length");
      push(long_bytes(take(static_cast<uint64_t>(size))));
      break;
    }
    case 'F': push(floating(parse_float(line()))); break;
    case 'G': push(floating(std::bit_cast<double>(__builtin_bswap64(little<uint64_t>())))); break;
    // Texts and bytes
    case 'S': push(quoted(line())); break;
    case 'V': push(raw_unicode(line())); break;
    case 'T': push(old_string(take(little<uint32_t>()))); break;
    case 'U': push(old_string(take(little<uint8_t>()))); break;
    case 'X': push(utf8(take(little<uint32_t>()))); break;
    case 0x8c: push(utf8(take(little<uint8_t>()))); break;
    case 0x8d: push(utf8(take(little<uint64_t>()))); break;
    case 'B': push(text(Kind::kBytes, take(little<uint32_t>()))); break;
    case 'C': push(text(Kind::kBytes, take(little<uint8_t>()))); break;
    case 0x8e:
    case 0x96: push(text(Kind::kBytes, take(little<uint64_t>()))); break;
    case 0x97:
    case 0x98: fail("buffers outside of the pickle are not supported");
    // Containers
    case '(':
      check_growth(marks_, marks_.size() + 1);
      marks_.push_back(stack_.size());
      break;
    case ')': push(empty_tuple()); break;
    case ']': push(empty(Kind::kList)); break;
    case '}': push(empty(Kind::kDict)); break;
    case 0x8f: push(empty(Kind::kSet)); break;
    case 't': push(sequence(Kind::kTuple, pop_mark())); break;
    case 'l': push(sequence(Kind::kList, pop_mark())); break;
    case 0x91: push(sequence(Kind::kSet, pop_mark())); break;
    case 'd': {
      const size_t from = pop_mark();
      if ((stack_.size() - from) % 2 != 0) fail("a key without value");
      push(sequence(Kind::kDict, from));
      break;
    }
    case 0x85: push(tuple(1)); break;
    case 0x86: push(tuple(2)); break;
    case 0x87: push(tuple(3)); break;
    case 'a': {
      if (stack_.size() < base() + 2) fail("nothing to append to");
      append_items(stack_.size() - 1);
      break;
    }
    case 'e': append_items(pop_mark()); break;
    case 's': {
      if (stack_.size() < base() + 3) fail("nothing to set items of");
      set_items(stack_.size() - 2);
      break;
    }
    case 'u': set_items(pop_mark()); break;
    case 0x90: add_to_set(pop_mark()); break;
    // Stack and memo
    case '0':
      if (!marks_.empty() && stack_.size() == marks_.back())
        marks_.pop_back();
      else
        pop();
      break;
    case '1': stack_.resize(pop_mark()); break;
    case '2': push(Node(top())); break;
    case 'p': put(parse_index(line())); break;
    case 'q': put(little<uint8_t>()); break;
    case 'r': put(little<uint32_t>()); break;
    case 0x94: put(puts_); break;
    case 'g': push(get(parse_index(line()))); break;
    case 'h': push(get(little<uint8_t>())); break;
    case 'j': push(get(little<uint32_t>())); break;
    // Globals, calls, objects
    case 'c': {
      const std::string_view module = line(), name = line();
      push(global(module, name));
      break;
    }
    case 0x93: stack_global(); break;
    case 'R':
    case 0x81: {
      const Node arguments = pop(), callable = pop();
      // A torch.Size is its tuple: an index of 100,000 entries has three of them for each.
      if (callable.kind_ == Kind::kGlobal && callable.text() == "torch.Size" && arguments.kind_ == Kind::kTuple &&
          arguments.size() == 1 && arguments.item(0).kind_ == Kind::kTuple) {
        push(arguments.item(0));
        break;
      }
      push(call(callable, arguments));
      break;
    }
    case 0x92: {
      const Node keywords = pop(), arguments = pop(), callable = pop();
      if (keywords.kind_ != Kind::kDict) fail("NEWOBJ_EX without a dict of keyword arguments");
      Node node = call(callable, arguments);
      if (keywords.size() > 0) items_of(node)[1] = keywords;
      push(node);
      break;
    }
    case 'i': {
      const std::string_view module = line(), name = line();
      const Node callable = global(module, name);
      object_from_mark(pop_mark(), callable);
      break;
    }
    case 'o': {
      const size_t from = pop_mark();
      if (stack_.size() <= from) fail("OBJ without a class");
      const Node callable = stack_[from];
      stack_.erase(stack_.begin() + static_cast<ptrdiff_t>(from));
      object_from_mark(from, callable);
      break;
    }
    case 'b': build(); break;
    case 'P': push(persistent(text(Kind::kString, line()))); break;
    case 'Q': push(persistent(pop())); break;
    case 0x82:
    case 0x83:
    case 0x84: fail("the registry of extensions is not supported");
    default: fail(fmt::format("0x{:02x} is no pickle opcode", op));
  }
}

PickleDocument PickleDocument::parse(std::string bytes, const PickleOptions& options) {
  PickleDocument document;
  document.origin_ = options.origin;
  const uint64_t limit =
      options.max_memory ? options.max_memory : std::clamp<uint64_t>(8 * bytes.size(), 64u << 20, 1u << 30);
  document.arena_ = std::make_unique<Arena>(std::move(bytes), limit);
  Unpickler unpickler(*document.arena_, options);
  try {
    document.root_ = unpickler.run();
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {} (pickle, byte {})", options.origin, error.what(), unpickler.failed_at()));
  }
  document.bytes_used_ = unpickler.position();
  return document;
}

}  // namespace viaduct::formats
