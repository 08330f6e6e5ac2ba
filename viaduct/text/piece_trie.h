// A set of texts in which the beginnings of another text are looked up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace viaduct::text {

/// Texts with a number each; walked byte by byte.
class PieceTrie {
 public:
  /// A place in the trie; the root is 0.
  using Node = uint32_t;
  static constexpr Node kNowhere = UINT32_MAX;

  /// An empty set.
  PieceTrie() : values_(1, -1) {}
  /// Adds a text that is not empty; `value` must not be negative. The last value of a text counts.
  void add(std::string_view text, int32_t value);
  /// The place behind one more byte, or kNowhere.
  Node step(Node node, char byte) const;
  /// The value of the text that ends at a place, or -1.
  int32_t value(Node node) const { return values_[node]; }
  /// Length of the longest text of the set that `text` begins with; 0 when there is none.
  size_t longest_prefix(std::string_view text) const;
  /// Is no text in the set?
  bool empty() const { return values_.size() == 1; }

 private:
  std::unordered_map<uint64_t, Node> edges_;  // (node, byte) to node
  std::vector<int32_t> values_;               // one a node
};

}  // namespace viaduct::text
