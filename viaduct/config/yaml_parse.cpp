// yaml-cpp reads the text and reports events; the document, its types and its bounds are ours.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <vector>

#include "viaduct/config/yaml.h"
#include "viaduct/core/strings.h"

namespace viaduct::config {
namespace {

constexpr std::string_view kCore = "tag:yaml.org,2002:";

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

class Builder : public YAML::EventHandler {
 public:
  Builder(std::string_view origin, const YamlLimits& limits) : origin_(origin), limits_(limits) {}

  Yaml take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(mark, anchor, Yaml(), {1, 0}); }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto known = anchors_.find(anchor);
    if (known == anchors_.end()) fail(mark, "an alias inside the node that it names");
    add(mark, 0, known->second.first, known->second.second);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    const bool merge = tag == "?" && text == "<<" && !frames_.empty() && frames_.back().expects_key();
    add(mark, anchor, merge ? Yaml(text) : scalar(mark, tag, text), {1, text.size()}, merge);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, "seq", anchor, Yaml::sequence());
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    const bool set = tag == "tag:yaml.org,2002:set";
    open(mark, tag, set ? "set" : "map", anchor, set ? Yaml::set_of() : Yaml::mapping());
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    Yaml node;
    YAML::Mark mark;
    YAML::anchor_t anchor = 0;
    Weight weight{1, 0};
    std::optional<Yaml> key;              // of a mapping: read, its value not yet
    bool key_merges = false;              // the key is <<
    std::set<std::string> keys;           // of a mapping: those it has itself
    std::vector<Yaml::Member> inherited;  // of a mapping: what << brought

    bool expects_key() const { return !node.is_sequence() && !key; }
  };

  [[noreturn]] void fail(const YAML::Mark& mark, std::string_view what) const {
    throw UserError(fmt::format("{}: {} at line {}, column {}", origin_, what, mark.line + 1, mark.column + 1));
  }

  Yaml scalar(const YAML::Mark& mark, const std::string& tag, const std::string& text) const {
    try {
      if (tag == "?") return resolve_plain_scalar(text);
      if (tag == "!" || tag == "tag:yaml.org,2002:str") return Yaml(text);
      if (!tag.starts_with(kCore)) fail(mark, unknown_tag(tag));
      const std::string_view type = std::string_view(tag).substr(kCore.size());
      Yaml value = resolve_plain_scalar(text);
      if (type == "int" && value.is_int()) return value;
      if (type == "float" && value.is_number()) return Yaml(value.as_double());
      if (type == "bool" && value.is_bool()) return value;
      if (type == "null" && value.is_null()) return value;
      if (type == "int" || type == "float" || type == "bool" || type == "null")
        fail(mark, fmt::format("{} is no {}", value.describe(), type));
    } catch (const UserError& error) {
      if (std::string_view(error.what()).starts_with(origin_)) throw;
      fail(mark, error.what());
    }
    fail(mark, unknown_tag(tag));
  }

  static std::string unknown_tag(const std::string& tag) {
    return fmt::format("the tag '{}' (only YAML's own types are read, no objects)", tag);
  }

  void open(const YAML::Mark& mark, const std::string& tag, std::string_view own, YAML::anchor_t anchor, Yaml node) {
    if (tag != "?" && tag != "!" && tag != std::string(kCore) + std::string(own)) fail(mark, unknown_tag(tag));
    if (static_cast<int>(frames_.size()) >= limits_.depth)
      fail(mark, fmt::format("nested deeper than {} levels", limits_.depth));
    if (!frames_.empty() && frames_.back().expects_key()) fail(mark, "a key that is not a scalar");
    spend(mark, {1, 0});
    frames_.push_back({std::move(node), mark, anchor});
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    if (!frame.inherited.empty()) inherit(frame);
    attach(frame.mark, frame.anchor, std::move(frame.node), frame.weight, false);
  }

  /// A scalar or an alias: pays for it and puts it in its place.
  void add(const YAML::Mark& mark, YAML::anchor_t anchor, Yaml node, Weight weight, bool merge = false) {
    spend(mark, weight);
    attach(mark, anchor, std::move(node), weight, merge);
  }

  void spend(const YAML::Mark& mark, const Weight& weight) {
    spent_ += weight;
    if (spent_.nodes > limits_.nodes) fail(mark, fmt::format("more than {} nodes, aliases expanded,", limits_.nodes));
    if (spent_.bytes > limits_.expanded_bytes)
      fail(mark, fmt::format("more than {} of text, aliases expanded,", human_bytes(limits_.expanded_bytes)));
  }

  void attach(const YAML::Mark& mark, YAML::anchor_t anchor, Yaml node, const Weight& weight, bool merge) {
    if (anchor != 0) {
      spend(mark, weight);
      anchors_[anchor] = {node, weight};
    }
    if (frames_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = frames_.back();
    frame.weight += weight;
    if (frame.node.is_sequence()) {
      frame.node.items().push_back(std::move(node));
    } else if (!frame.key) {
      if (!node.is_scalar()) fail(mark, "a key that is not a scalar");
      const std::string identity = (merge ? "<" : std::to_string(static_cast<int>(node.kind()))) + emit_yaml(node);
      if (!frame.keys.insert(identity).second) fail(mark, fmt::format("the key {} a second time", key_name(node)));
      frame.key = std::move(node);
      frame.key_merges = merge;
    } else if (frame.key_merges) {
      collect(mark, frame, std::move(node), weight);
      frame.key.reset();
    } else {
      if (frame.node.is_set() && !node.is_null()) fail(mark, "a member of a set with a value");
      frame.node.members().emplace_back(std::move(*frame.key), std::move(node));
      frame.key.reset();
    }
  }

  static std::string key_name(const Yaml& key) { return key.is_string() ? "'" + key.as_string() + "'" : key.describe(); }

  /// The value of <<: a mapping, or a list of mappings of which earlier ones win.
  void collect(const YAML::Mark& mark, Frame& frame, Yaml node, const Weight& weight) {
    spend(mark, weight);
    std::vector<Yaml> sources;
    if (node.is_sequence()) {
      sources.assign(node.items().rbegin(), node.items().rend());
    } else {
      sources.push_back(std::move(node));
    }
    for (Yaml& source : sources) {
      if (!source.is_mapping()) fail(mark, fmt::format("'<<' merges mappings, not {},", source.describe()));
      for (Yaml::Member& member : source.members()) frame.inherited.push_back(std::move(member));
    }
  }

  /// Own members over inherited ones, later inherited ones over earlier.
  static void inherit(Frame& frame) {
    std::vector<Yaml::Member> all;
    std::map<std::string, size_t> places;
    auto put = [&](Yaml::Member member) {
      const std::string identity = std::to_string(static_cast<int>(member.first.kind())) + emit_yaml(member.first);
      const auto [at, fresh] = places.try_emplace(identity, all.size());
      if (fresh) {
        all.push_back(std::move(member));
      } else {
        all[at->second].second = std::move(member.second);
      }
    };
    for (Yaml::Member& member : frame.inherited) put(std::move(member));
    for (Yaml::Member& member : frame.node.members()) put(std::move(member));
    frame.node.members() = std::move(all);
  }

  std::string_view origin_;
  const YamlLimits& limits_;
  std::vector<Frame> frames_;
  std::map<YAML::anchor_t, std::pair<Yaml, Weight>> anchors_;
  Weight spent_;
  Yaml root_;
};

/// The characters that PyYAML refuses, and the rare line breaks on which the two parsers disagree.
void check_characters(std::string_view text, std::string_view origin) {
  VIADUCT_USER_CHECK(is_utf8(text), "{}: not UTF-8 text", origin);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
    const unsigned c = byte(i);
    const bool control = (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F ||
                         (c == 0xC2 && byte(i + 1) < 0xA0);
    const bool separator = c == 0xE2 && byte(i + 1) == 0x80 && (byte(i + 2) == 0xA8 || byte(i + 2) == 0xA9);
    const bool noncharacter = c == 0xEF && byte(i + 1) == 0xBF && byte(i + 2) >= 0xBE;
    VIADUCT_USER_CHECK(!control && !separator && !noncharacter,
                       "{}: a control character or rare line break (byte 0x{:02x}) at byte {}; YAML writes those as "
                       "escapes in double quotes",
                       origin, c, i);
  }
}

}  // namespace

Yaml parse_yaml(std::string_view text, std::string_view origin, const YamlLimits& limits) {
  VIADUCT_USER_CHECK(text.size() <= limits.text_bytes, "{}: {} of YAML; at most {} are read", origin,
                     human_bytes(text.size()), human_bytes(limits.text_bytes));
  check_characters(text, origin);
  Builder builder(origin, limits);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return Yaml();
    Yaml document = builder.take();
    Builder second(origin, limits);
    VIADUCT_USER_CHECK(!parser.HandleNextDocument(second), "{}: a second document; one is expected", origin);
    return document;
  } catch (const YAML::Exception& error) {
    throw UserError(fmt::format("{}: {} at line {}, column {}", origin, error.msg, error.mark.line + 1,
                                error.mark.column + 1));
  }
}

Yaml read_yaml_file(const Path& path, const YamlLimits& limits) {
  return parse_yaml(read_text_file(path, limits.text_bytes), path.string(), limits);
}

}  // namespace viaduct::config
