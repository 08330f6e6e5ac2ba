#include "viaduct/text/piece_trie.h"

namespace viaduct::text {
namespace {

uint64_t edge(PieceTrie::Node node, char byte) { return uint64_t{node} << 8 | static_cast<uint8_t>(byte); }

}  // namespace

void PieceTrie::add(std::string_view text, int32_t value) {
  Node node = 0;
  for (const char byte : text) {
    const auto [it, is_new] = edges_.try_emplace(edge(node, byte), static_cast<Node>(values_.size()));
    if (is_new) values_.push_back(-1);
    node = it->second;
  }
  values_[node] = value;
}

PieceTrie::Node PieceTrie::step(Node node, char byte) const {
  const auto it = edges_.find(edge(node, byte));
  return it == edges_.end() ? kNowhere : it->second;
}

size_t PieceTrie::longest_prefix(std::string_view text) const {
  size_t longest = 0;
  Node node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    node = step(node, text[i]);
    if (node == kNowhere) break;
    if (values_[node] >= 0) longest = i + 1;
  }
  return longest;
}

}  // namespace viaduct::text
