// Writes Python pickles, protocol 2 (as torch.save does) or 4 (as pickle.dump does).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "viaduct/formats/pickle_value.h"

namespace viaduct::formats {

/// Emits opcodes. Globals and texts are remembered and referred to when they come again; with protocol 2 every
/// object gets a memo number as Python's pickler gives it, so that equal values give torch.save's bytes.
class PickleWriter {
 public:
  /// `protocol` is 2 or 4.
  explicit PickleWriter(int protocol);
  /// Room for so many bytes: a large index is not copied while it grows.
  void reserve(size_t bytes) { out_.reserve(bytes); }

  /// Puts a constant or a number on the stack of the pickle machine.
  void none() { out_ += 'N'; }
  void boolean(bool value) { out_ += value ? '\x88' : '\x89'; }
  void integer(int64_t value);
  void floating(double value);
  /// UTF-8. Returns the number by which `recall` writes it again without looking it up.
  uint32_t string(std::string_view text);
  /// The string that `string` gave this number to.
  void recall(uint32_t number);
  /// A bytes object of less than 4 GiB; with protocol 2 the call of codecs.encode that Python writes for one.
  void bytes(std::string_view bytes);
  /// A class or function by its name.
  void global(std::string_view module, std::string_view name);

  /// What appends, set_items and long tuples take begins here.
  void mark() { out_ += '('; }
  /// An empty container.
  void empty_tuple() { out_ += ')'; }
  /// An empty container, to which items come by append or set_item.
  void empty_list();
  /// An empty container, to which items come by append or set_item.
  void empty_dict();
  /// A tuple of the last `count` values; for more than 3 (or an unknown number) `mark` came before them.
  void tuple(size_t count);
  void append() { out_ += 'a'; }      // one item to a list
  void appends() { out_ += 'e'; }     // items since the mark
  void set_items() { out_ += 'u'; }   // keys and values since the mark
  void set_item() { out_ += 's'; }    // one key and value
  void call();                        // REDUCE
  void new_object();                  // NEWOBJ
  void build() { out_ += 'b'; }       // BUILD: the state of the object before it
  void persistent() { out_ += 'Q'; }  // protocol 2: the value before is the id

  /// The opcodes that `repeat` copies.
  struct Pattern {
    int times = 0;
    std::string opcodes;
  };
  /// Does `write`, which must give the same opcodes from its second time on (when all it names is remembered): from
  /// then on they are copied. For indices of 100,000 equal entries. Protocol 4 only.
  template <class Write>
  void repeat(Pattern& pattern, const Write& write) {
    if (pattern.times >= 2) {
      out_ += pattern.opcodes;
      return;
    }
    const size_t before = out_.size();
    write();
    if (++pattern.times == 2) pattern.opcodes = out_.substr(before);
  }

  /// Appends STOP (and completes the frame). Called once.
  std::string finish();

 private:
  void remember();            // gives the object just written its memo number
  void remember_container();  // the same for what is never referred to again: protocol 2 alone, for torch's sake

  int protocol_;
  std::string out_;
  uint32_t memo_size_ = 0;
  // Looked up by string_view without making a string of it.
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  using Memo = std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>>;
  Memo strings_;
  Memo globals_;
  std::string key_;  // of the global being looked up
};

/// Writes a value tree; `tensor` writes the tensors it holds (InternalError when it is empty and there are some).
void write_value(PickleWriter& to, const PickleValue& value,
                 const std::function<void(PickleWriter&, const PickleTensor&)>& tensor = {});
/// A whole pickle of a value without tensors.
std::string write_pickle(const PickleValue& value, int protocol);

}  // namespace viaduct::formats
