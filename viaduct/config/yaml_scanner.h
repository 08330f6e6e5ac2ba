// The tokens of a YAML 1.1 text. Part of parse_yaml; nobody else needs it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/config/yaml.h"

namespace viaduct::config {

/// A token and where it begins.
struct YamlToken {
  /// The tokens of PyYAML's scanner.
  enum class Kind : uint8_t {
    kDirective,
    kDocumentStart,
    kDocumentEnd,
    kBlockSequenceStart,
    kBlockMappingStart,
    kBlockEnd,
    kFlowSequenceStart,
    kFlowSequenceEnd,
    kFlowMappingStart,
    kFlowMappingEnd,
    kBlockEntry,
    kFlowEntry,
    kKey,
    kValue,
    kAlias,
    kAnchor,
    kTag,
    kScalar,
    kStreamEnd,
  };
  Kind kind;
  bool plain = false;  // of a scalar: not quoted, not a block
  int line = 0;        // from 0
  int column = 0;
  std::string text;  // of a scalar, an alias, an anchor, a tag
};

/// Where something stands in a text.
struct YamlPlace {
  int line = 0;
  int column = 0;
};

/// "<origin>: <what> at line L, column C" as a UserError.
[[noreturn]] void throw_yaml_error(std::string_view origin, std::string_view what, YamlPlace place);

/// Splits a whole text. The last token is kStreamEnd. `text` must be UTF-8 without NUL.
class YamlScanner {
 public:
  /// All of them outlive the scanner.
  YamlScanner(std::string_view text, std::string_view origin, const YamlLimits& limits)
      : text_(text), origin_(origin), limits_(limits) {}
  /// UserError as parse_yaml for what is no YAML. Called once.
  std::vector<YamlToken> scan();

 private:
  using Kind = YamlToken::Kind;
  /// A place where "key" may turn out to have stood when a ':' follows on the same line.
  struct PossibleKey {
    size_t token;
    bool required;
    size_t characters;
    YamlPlace place;
  };

  [[noreturn]] void fail(std::string_view what) const { throw_yaml_error(origin_, what, place_); }

  char peek(size_t ahead = 0) const { return pos_ + ahead < text_.size() ? text_[pos_ + ahead] : '\0'; }
  bool at_end() const { return pos_ >= text_.size(); }
  bool at_document_marker() const;
  void forward(size_t count = 1);
  std::string take(size_t count);
  bool take_break();

  void skip_to_token();
  void fetch();
  void drop_stale_keys();
  void end_blocks_beyond(int column);
  bool begin_block(int column);
  void save_key();
  void forget_key();
  std::optional<PossibleKey>& key_here() { return keys_.back(); }
  void add(Kind kind, std::string text = {}, bool plain = false) { add(kind, place_, std::move(text), plain); }
  void add(Kind kind, YamlPlace place, std::string text = {}, bool plain = false);
  bool starts_plain() const;

  void fetch_directive();
  void fetch_document_marker(Kind kind);
  void fetch_flow_start(Kind kind);
  void fetch_flow_end(Kind kind);
  void fetch_flow_entry();
  void fetch_block_entry();
  void fetch_key();
  void fetch_value();
  void fetch_name(Kind kind);
  void fetch_tag();
  void fetch_block_scalar(bool folded);
  void fetch_quoted(bool double_quotes);
  void fetch_plain();

  std::string plain_gap();
  void escape(std::string& out);
  std::string quoted_gap();
  std::string quoted_breaks();
  std::string block_breaks(int indent);
  int block_indentation(std::string& breaks);

  std::string_view text_;
  std::string_view origin_;
  const YamlLimits& limits_;
  size_t pos_ = 0;
  size_t characters_ = 0;
  YamlPlace place_;

  std::vector<YamlToken> tokens_;
  bool ended_ = false;
  int flow_level_ = 0;
  int indent_ = -1;
  std::vector<int> indents_;
  bool key_allowed_ = true;
  std::vector<std::optional<PossibleKey>> keys_ = std::vector<std::optional<PossibleKey>>(1);  // one a flow level
};

}  // namespace viaduct::config
