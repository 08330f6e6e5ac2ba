// Tokens to a document: YAML 1.1's grammar, anchors, merge keys, types and bounds.
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "viaduct/config/yaml_scanner.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

constexpr std::string_view kCore = "tag:yaml.org,2002:";
constexpr std::string_view kMergeKey = "<<";

/// What a node cost: itself and all that is in it.
struct Weight {
  size_t nodes = 0;
  size_t bytes = 0;
  Weight& operator+=(const Weight& other) {
    nodes += other.nodes;
    bytes += other.bytes;
    return *this;
  }
};

struct Node {
  Yaml value;
  Weight weight;
  bool is_merge_key = false;
};

/// Two scalars are the same key when kind and text are equal.
std::string identity(const Yaml& key) {
  return std::to_string(static_cast<int>(key.kind())) + (key.is_string() ? key.as_string() : emit_yaml(key));
}

std::string key_name(const Yaml& key) { return key.is_string() ? "'" + key.as_string() + "'" : key.describe(); }

/// The members of a mapping while it is read.
class MappingBuilder {
 public:
  /// False when the key was there before.
  bool claim(const Yaml& key, bool merge) {
    return own_.insert(merge ? std::string(kMergeKey) : identity(key)).second;
  }
  void put(Yaml key, Yaml value) { members_.emplace_back(std::move(key), std::move(value)); }
  void inherit(const Yaml& source) {
    for (const Yaml::Member& member : source.members()) inherited_.push_back(member);
  }

  /// Own members win over inherited ones, later inherited ones over earlier.
  std::vector<Yaml::Member> take() {
    if (inherited_.empty()) return std::move(members_);
    std::vector<Yaml::Member> all;
    std::map<std::string, size_t> places;
    for (std::vector<Yaml::Member>* part : {&inherited_, &members_}) {
      for (Yaml::Member& member : *part) {
        const auto [at, fresh] = places.try_emplace(identity(member.first), all.size());
        if (fresh) {
          all.push_back(std::move(member));
        } else {
          all[at->second].second = std::move(member.second);
        }
      }
    }
    return all;
  }

 private:
  std::vector<Yaml::Member> members_;
  std::vector<Yaml::Member> inherited_;
  std::set<std::string> own_;
};

class Parser {
 public:
  /// `lines`, unless nullptr, gets the line of each key.
  Parser(std::vector<YamlToken> tokens, std::string_view origin, const YamlLimits& limits, YamlLines* lines)
      : tokens_(std::move(tokens)), origin_(origin), limits_(limits), lines_(lines) {}

  Yaml document() {
    if (next_is(Kind::kStreamEnd)) return Yaml();
    bool directives = false;
    while (accept(Kind::kDirective)) directives = true;
    const bool marked = accept(Kind::kDocumentStart);
    if (directives && !marked) fail("something else than '---' behind a directive");
    const bool empty = marked && next_is_one_of(Kind::kDocumentStart, Kind::kDocumentEnd, Kind::kStreamEnd);
    Yaml root = empty ? Yaml() : node(kBlock).value;
    while (accept(Kind::kDocumentEnd)) {
    }
    if (!next_is(Kind::kStreamEnd))
      fail(next_is(Kind::kDocumentStart) ? "a second document, where one is expected,"
                                         : "text behind the document");
    return root;
  }

 private:
  using Kind = YamlToken::Kind;
  enum Context { kBlock, kBlockOrIndentless, kFlow };

  const YamlToken& next() const { return tokens_[at_]; }
  bool next_is(Kind kind) const { return next().kind == kind; }
  template <class... Kinds>
  bool next_is_one_of(Kinds... kinds) const {
    return (next_is(kinds) || ...);
  }
  YamlToken take() { return std::move(tokens_[at_++]); }
  bool accept(Kind kind) { return next_is(kind) && (++at_, true); }

  YamlPlace place() const { return {next().line, next().column}; }
  [[noreturn]] void fail(std::string_view what, YamlPlace where) const { throw_yaml_error(origin_, what, where); }
  [[noreturn]] void fail(std::string_view what) const { fail(what, place()); }

  void spend(const Weight& weight, YamlPlace where) {
    spent_ += weight;
    if (spent_.nodes > limits_.nodes)
      fail(fmt::format("more than {} nodes, aliases expanded,", limits_.nodes), where);
    if (spent_.bytes > limits_.expanded_bytes)
      fail(fmt::format("more than {} of text, aliases expanded,", human_bytes(limits_.expanded_bytes)), where);
  }

  Node node(Context context) {
    const YamlPlace where = place();
    if (next_is(Kind::kAlias)) return alias();
    std::optional<std::string> anchor, tag;
    while ((next_is(Kind::kAnchor) && !anchor) || (next_is(Kind::kTag) && !tag)) {
      std::optional<std::string>& slot = next_is(Kind::kAnchor) ? anchor : tag;
      slot = take().text;
    }
    if (anchor && anchors_.contains(*anchor)) fail(fmt::format("the anchor '{}' a second time", *anchor), where);
    // Until its node is read, an alias to it has nothing to stand for.
    if (anchor) anchors_[*anchor] = std::nullopt;
    Node out = content(context, tag, anchor.has_value(), where);
    if (anchor) {
      spend(out.weight, where);
      anchors_[*anchor] = Node{out.value, out.weight};
    }
    return out;
  }

  Node alias() {
    const YamlPlace where = place();
    const std::string name = take().text;
    const auto known = anchors_.find(name);
    if (known == anchors_.end()) fail(fmt::format("an alias to '{}', which is not defined,", name), where);
    if (!known->second) fail(fmt::format("the alias '{}' inside the node that it names", name), where);
    spend(known->second->weight, where);
    return *known->second;
  }

  Node content(Context context, const std::optional<std::string>& tag, bool has_anchor, YamlPlace where) {
    if (context == kBlockOrIndentless && next_is(Kind::kBlockEntry)) return sequence(tag, where, Kind::kBlockEntry);
    if (next_is(Kind::kScalar)) {
      const YamlToken token = take();
      return scalar(token.text, token.plain, tag, where);
    }
    if (next_is(Kind::kFlowSequenceStart)) return sequence(tag, where, Kind::kFlowSequenceStart);
    if (next_is(Kind::kFlowMappingStart)) return mapping(tag, where, false);
    if (context != kFlow && next_is(Kind::kBlockSequenceStart))
      return sequence(tag, where, Kind::kBlockSequenceStart);
    if (context != kFlow && next_is(Kind::kBlockMappingStart)) return mapping(tag, where, true);
    if (tag || has_anchor) return scalar("", !tag, tag, where);
    fail("something else than a value");
  }

  Node empty() { return scalar("", true, std::nullopt, place()); }

  Node scalar(const std::string& text, bool plain, const std::optional<std::string>& tag, YamlPlace where) {
    Node out;
    out.weight = {1, text.size()};
    spend(out.weight, where);
    out.is_merge_key = plain && !tag && text == kMergeKey;
    out.value = out.is_merge_key ? Yaml(text) : typed(text, plain, tag, where);
    return out;
  }

  Yaml typed(const std::string& text, bool plain, const std::optional<std::string>& tag, YamlPlace where) const {
    if (!tag && !plain) return Yaml(text);
    if (tag == std::string(kCore) + "str") return Yaml(text);
    Yaml value;
    try {
      value = resolve_plain_scalar(text);
    } catch (const UserError& error) {
      fail(error.what(), where);
    }
    if (!tag || *tag == "!") return value;
    const std::string_view type = tag->starts_with(kCore) ? std::string_view(*tag).substr(kCore.size()) : *tag;
    if (type == "int" && value.is_int()) return value;
    if (type == "float" && value.is_number()) return Yaml(value.as_double());
    if (type == "bool" && value.is_bool()) return value;
    if (type == "null") return Yaml();
    if (tag->starts_with(kCore) && (type == "int" || type == "float" || type == "bool"))
      fail(fmt::format("{} is no {}", value.describe(), type), where);
    fail(unknown_tag(*tag), where);
  }

  static std::string unknown_tag(const std::string& tag) {
    return fmt::format("the tag '{}' (only YAML's own types are read, no objects)", tag);
  }

  /// A collection begins: checks its tag, pays for it and counts the depth.
  void enter(const std::optional<std::string>& tag, std::string_view own, YamlPlace where) {
    if (tag && *tag != "!" && *tag != std::string(kCore) + std::string(own)) fail(unknown_tag(*tag), where);
    if (++depth_ > limits_.depth) fail(fmt::format("nested deeper than {} levels", limits_.depth), where);
    spend({1, 0}, where);
  }

  /// `start`: how it begins; kBlockEntry for a list under a key that is not indented further than the key.
  Node sequence(const std::optional<std::string>& tag, YamlPlace where, Kind start) {
    enter(tag, "seq", where);
    Node out{Yaml::sequence(), {1, 0}};
    auto append = [&](Node item) {
      out.weight += item.weight;
      refuse_merge_key(item, where);
      out.value.items().push_back(std::move(item.value));
    };
    if (start == Kind::kFlowSequenceStart) {
      take();
      flow_entries(Kind::kFlowSequenceEnd, [&] { append(next_is(Kind::kKey) ? single_pair() : node(kFlow)); });
    } else {
      const bool indentless = start == Kind::kBlockEntry;
      if (!indentless) take();
      while (accept(Kind::kBlockEntry)) {
        const bool absent = next_is_one_of(Kind::kBlockEntry, Kind::kBlockEnd) ||
                            (indentless && next_is_one_of(Kind::kKey, Kind::kValue));
        append(absent ? empty() : node(kBlock));
      }
      if (!indentless && !accept(Kind::kBlockEnd)) fail("something else than a list's next entry");
    }
    --depth_;
    return out;
  }

  template <class Entry>
  void flow_entries(Kind end, Entry entry) {
    for (bool first = true; !accept(end); first = false) {
      if (!first && !accept(Kind::kFlowEntry)) fail("something else than ',' or the closing bracket");
      if (accept(end)) return;
      entry();
    }
  }

  Node mapping(const std::optional<std::string>& tag, YamlPlace where, bool block) {
    const bool is_set = tag == std::string(kCore) + "set";
    enter(tag, is_set ? "set" : "map", where);
    MappingBuilder members;
    Weight weight{1, 0};
    take();
    if (block) {
      while (next_is_one_of(Kind::kKey)) block_pair(members, weight, is_set);
      if (!accept(Kind::kBlockEnd)) fail("something else than a mapping's next key");
    } else {
      flow_entries(Kind::kFlowMappingEnd, [&] { flow_pair(members, weight, is_set, Kind::kFlowMappingEnd); });
    }
    --depth_;
    return {is_set ? Yaml::set_of(members.take()) : Yaml::mapping(members.take()), weight};
  }

  /// "[a: 1]": a mapping of one pair inside a list.
  Node single_pair() {
    enter(std::nullopt, "map", place());
    MappingBuilder members;
    Weight weight{1, 0};
    flow_pair(members, weight, false, Kind::kFlowSequenceEnd);
    --depth_;
    return {Yaml::mapping(members.take()), weight};
  }

  /// While the value of a key is read: its path, and its line in the list.
  class Inside {
   public:
    Inside(Parser& parser, const Yaml& key, YamlPlace where) : parser_(parser), outer_(parser.path_.size()) {
      if (!parser_.lines_ || !key.is_string()) return;
      parser_.path_ += (outer_ > 0 ? "." : "") + key.as_string();
      parser_.lines_->try_emplace(parser_.path_, where.line + 1);
    }
    ~Inside() { parser_.path_.resize(outer_); }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    Parser& parser_;
    size_t outer_;
  };

  void block_pair(MappingBuilder& members, Weight& weight, bool is_set) {
    const YamlPlace where = place();
    take();
    const auto absent = [&] { return next_is_one_of(Kind::kKey, Kind::kValue, Kind::kBlockEnd); };
    Node key = absent() ? empty() : node(kBlockOrIndentless);
    const Inside inside(*this, key.value, where);
    Node value = !accept(Kind::kValue) || absent() ? empty() : node(kBlockOrIndentless);
    pair(members, weight, is_set, std::move(key), std::move(value), where);
  }

  void flow_pair(MappingBuilder& members, Weight& weight, bool is_set, Kind end) {
    const YamlPlace where = place();
    if (!accept(Kind::kKey)) {  // "{a, b}": keys without values
      Node key = node(kFlow);
      return pair(members, weight, is_set, std::move(key), empty(), where);
    }
    Node key = next_is_one_of(Kind::kValue, Kind::kFlowEntry, end) ? empty() : node(kFlow);
    const Inside inside(*this, key.value, where);
    const bool has_value = accept(Kind::kValue) && !next_is_one_of(Kind::kFlowEntry, end);
    pair(members, weight, is_set, std::move(key), has_value ? node(kFlow) : empty(), where);
  }

  void pair(MappingBuilder& members, Weight& weight, bool is_set, Node key, Node value, YamlPlace where) {
    if (!key.value.is_scalar()) fail("a key that is not a scalar", where);
    refuse_merge_key(value, where);
    if (!members.claim(key.value, key.is_merge_key))
      fail(fmt::format("the key {} a second time", key_name(key.value)), where);
    weight += key.weight;
    weight += value.weight;
    if (key.is_merge_key) return merge(members, value, where);
    if (is_set && !value.value.is_null()) fail("a member of a set with a value", where);
    members.put(std::move(key.value), std::move(value.value));
  }

  /// The value of <<: a mapping, or a list of mappings of which earlier ones win.
  void merge(MappingBuilder& members, const Node& value, YamlPlace where) {
    spend(value.weight, where);
    auto one = [&](const Yaml& source) {
      if (!source.is_mapping()) fail(fmt::format("'<<' merges mappings, not {},", source.describe()), where);
      members.inherit(source);
    };
    if (!value.value.is_sequence()) return one(value.value);
    for (auto source = value.value.items().rbegin(); source != value.value.items().rend(); ++source) one(*source);
  }

  void refuse_merge_key(const Node& node, YamlPlace where) const {
    if (node.is_merge_key) fail("a bare '<<' that is no key; quote it", where);
  }

  std::vector<YamlToken> tokens_;
  std::string_view origin_;
  const YamlLimits& limits_;
  YamlLines* lines_;
  std::string path_;  // of the key whose value is read
  size_t at_ = 0;
  int depth_ = 0;
  Weight spent_;
  std::map<std::string, std::optional<Node>> anchors_;
};

/// The characters that PyYAML refuses, and the rare line breaks that it alone takes for such.
void check_characters(std::string_view text, std::string_view origin) {
  VIADUCT_USER_CHECK(is_utf8(text), "{}: not UTF-8 text", origin);
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned c = byte(i);
    const bool control =
        (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F || (c == 0xC2 && byte(i + 1) < 0xA0);
    const bool separator = c == 0xE2 && byte(i + 1) == 0x80 && (byte(i + 2) == 0xA8 || byte(i + 2) == 0xA9);
    const bool noncharacter = c == 0xEF && byte(i + 1) == 0xBF && byte(i + 2) >= 0xBE;
    VIADUCT_USER_CHECK(
        !control && !separator && !noncharacter,
        "{}: a control character or rare line break (byte 0x{:02x}) at byte {}; YAML writes those as "
        "escapes in double quotes",
        origin, c, i);
  }
}

}  // namespace

Yaml parse_yaml(std::string_view text, std::string_view origin, const YamlLimits& limits, YamlLines* lines) {
  VIADUCT_USER_CHECK(text.size() <= limits.text_bytes, "{}: {} of YAML; at most {} are read", origin,
                     human_bytes(text.size()), human_bytes(limits.text_bytes));
  check_characters(text, origin);
  return Parser(YamlScanner(text, origin, limits).scan(), origin, limits, lines).document();
}

Yaml read_yaml_file(const Path& path, const YamlLimits& limits, YamlLines* lines) {
  return parse_yaml(read_text_file(path, limits.text_bytes), path.string(), limits, lines);
}

}  // namespace viaduct::config
