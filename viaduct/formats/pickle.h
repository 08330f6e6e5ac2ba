// Python pickles, read as data. No code is ever run: a call that the pickle asks for becomes a node that says so.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace viaduct::formats {

/// How a pickle is read, and at what cost.
struct PickleOptions {
  /// Names the pickle in messages: "model.bin: archive/data.pkl".
  std::string origin;
  /// What to do with a global that is not on the list of those that state dicts need.
  enum class Unknown {
    kRefuse,  // UserError that names it
    kOpaque,  // keep its name; still refused when it can run programs or code (os.system, builtins.eval)
  };
  Unknown unknown = Unknown::kRefuse;
  /// Bound of the memory for the parsed graph. 0: 8 times the pickle, at least 64 MiB, at most 1 GiB.
  uint64_t max_memory = 0;
};

/// A value in a parsed pickle: a handle of 16 bytes, valid as long as its PickleDocument. Values may be shared and
/// may form cycles: whoever walks them bounds the walk.
class PickleNode {
 public:
  /// What a node is; numbers of up to 64 bits are kInt, larger ones kBigInt.
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kBigInt,
    kFloat,
    kString,
    kBytes,
    kList,
    kTuple,
    kSet,
    kDict,
    kGlobal,
    kCall,        // callable(*args), with what was built, appended and set afterwards; torch.Size is a kTuple
    kPersistent,  // a persistent id: torch's storages
  };

  PickleNode() = default;
  /// What it is; which of the others may be asked follows from it, and is not checked.
  Kind kind() const { return kind_; }

  /// Is it of this kind?
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is(Kind kind) const { return kind_ == kind; }

  bool boolean() const { return u_.integer != 0; }  // kBool
  int64_t integer() const { return u_.integer; }    // kInt, kBool
  double floating() const { return u_.floating; }   // kFloat
  /// kString (UTF-8), kBytes, kBigInt (little-endian two's complement), kGlobal ("module.name").
  std::string_view text() const { return {u_.text, length_}; }
  /// kList, kTuple, kSet: number of items. kDict: of pairs.
  size_t size() const;
  PickleNode item(size_t i) const;   // kList, kTuple, kSet
  PickleNode key(size_t i) const;    // kDict
  PickleNode value(size_t i) const;  // kDict
  /// kDict: the value of a text key, the last one when there are several; nullptr when absent. Searches one by one.
  const PickleNode* find(std::string_view key) const;

  // kCall
  PickleNode callable() const;   // kGlobal
  PickleNode arguments() const;  // kTuple
  PickleNode state() const;      // kNone when there was no BUILD
  PickleNode appended() const;   // kList
  PickleNode members() const;    // kDict
  /// True when this is a call of, or the object of, the global of that name.
  bool is_call_of(std::string_view global) const;
  /// kPersistent: the id, for a storage a kTuple.
  PickleNode persistent_id() const;

  /// The same object in memory (lists, dicts, calls), to find cycles.
  const void* identity() const { return u_.text; }

 private:
  friend class Unpickler;
  struct Sequence;
  struct Call;
  Kind kind_ = Kind::kNone;
  uint32_t length_ = 0;
  union {
    int64_t integer;
    double floating;
    const char* text;
    Sequence* sequence;
    Call* call;
    PickleNode* persistent;
  } u_{.integer = 0};
};

/// A parsed pickle: owns the bytes and all values. Movable.
class PickleDocument {
 public:
  PickleDocument(PickleDocument&&) noexcept;
  PickleDocument& operator=(PickleDocument&&) noexcept;
  ~PickleDocument();

  /// Protocols 0 to 5. UserError "<origin>: ... at byte N" for anything that is not a whole pickle, for a global
  /// that is not allowed, and when the graph would need more than the bound of memory. Takes time linear in the
  /// size.
  static PickleDocument parse(std::string bytes, const PickleOptions& options);

  /// The value that the pickle stands for; valid as long as this document.
  PickleNode root() const { return root_; }
  /// PickleOptions::origin.
  const std::string& origin() const { return origin_; }
  /// Bytes up to and with the STOP; what follows was not looked at.
  size_t bytes_used() const { return bytes_used_; }

 private:
  friend class Unpickler;
  class Arena;
  PickleDocument();
  std::string origin_;
  std::unique_ptr<Arena> arena_;
  PickleNode root_;
  size_t bytes_used_ = 0;
};

/// May a pickle name this global? (The list for state dicts and checkpoints' object trees.)
bool is_allowed_global(std::string_view module, std::string_view name);
/// Globals that run programs or code when called: refused in every mode.
bool is_dangerous_global(std::string_view module, std::string_view name);

}  // namespace viaduct::formats
