// The expected values are PyYAML 6.0's (safe_load, safe_dump); tests/python/test_run_config.py compares many more
// with PyYAML itself.
#include "viaduct/config/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace viaduct::config {
namespace {

using ::testing::HasSubstr;

Yaml parse(std::string_view text) { return parse_yaml(text, "test.yaml"); }

std::string error_of(std::string_view text, const YamlLimits& limits = {}) {
  try {
    parse_yaml(text, "test.yaml", limits);
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(YamlScalar, FollowsYaml11AsPyYamlReadsIt) {
  const std::vector<std::pair<std::string, Yaml>> cases = {
      {"yes", true},
      {"On", true},
      {"TRUE", true},
      {"no", false},
      {"off", false},
      {"y", "y"},
      {"tRUE", "tRUE"},
      {"~", nullptr},
      {"null", nullptr},
      {"Null", nullptr},
      {"nULL", "nULL"},
      {"", nullptr},
      {"1e-05", "1e-05"},
      {"1.0e-05", 1e-5},
      {"1.0e5", "1.0e5"},
      {"1.e+3", 1000.0},
      {"1e+3", "1e+3"},
      {".5", 0.5},
      {"-.5", "-.5"},
      {"1.", 1.0},
      {"1_0.2_5", 10.25},
      {"-0.0", -0.0},
      {".", "."},
      {"1.2.3", "1.2.3"},
      {".inf", HUGE_VAL},
      {"-.INF", -HUGE_VAL},
      {".Inf", HUGE_VAL},
      {"inf", "inf"},
      {".nan", std::nan("")},
      {"nan", "nan"},
      {"1.0e+400", HUGE_VAL},
      {"1.0e-400", 0.0},
      {"0.0001e+310", 1e306},
      {"0", 0},
      {"-7", -7},
      {"+7", 7},
      {"1_000", 1000},
      {"017", 15},
      {"0o17", "0o17"},
      {"08", "08"},
      {"0x1F", 31},
      {"-0x1f", -31},
      {"0b101", 5},
      {"0b2", "0b2"},
      {"1:30", 90},
      {"-1:30:05", -5405},
      {"1:60", "1:60"},
      {"1:30.5", 90.5},
      {"0:1", "0:1"},
      {"_1", "_1"},
      {"12e", "12e"},
      {"9223372036854775807", std::numeric_limits<int64_t>::max()},
      {"-9223372036854775808", std::numeric_limits<int64_t>::min()},
      {"9223372036854775808", Yaml::big_integer("9223372036854775808")},
      {"1000000000000000019884624838656", Yaml::big_integer("1000000000000000019884624838656")},
      {"2001-1-1", "2001-1-1"},
      {"true false", "true false"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(resolve_plain_scalar(text), expected) << text << " gave " << resolve_plain_scalar(text).describe();
    EXPECT_EQ(parse("'" + text + "'"), Yaml(text)) << "quoted " << text;
  }
  for (const char* text :
       {"2001-12-14", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43 Z", "0b_", "0x_", "=", "<<"})
    EXPECT_THROW(resolve_plain_scalar(text), UserError) << text;
}

TEST(YamlParse, ReadsBlocksFlowsQuotesAndTextBlocks) {
  const Yaml yaml = parse(
      "# comment\n"
      "list:\n- 1\n- [a, {b: 2.5, c}]\n-\n  - x: y\n    z: no\n"
      "plain: one\n  two\n\n  three # end\n"
      "single: 'it''s\n  folded'\n"
      "double: \"tab\\t\\x41\\u00e9\\U0001F600\\N \\\n   joined\"\n"
      "literal: |\n  a\n    b\n\nfolded: >-\n  a\n  b\n\n  c\n"
      "? complex\n: value\n"
      "7: seven\nempty:\n");
  Yaml expected = Yaml::mapping();
  Yaml inner = Yaml::mapping({{"b", 2.5}, {"c", nullptr}});
  expected.set("list", Yaml::sequence({1, Yaml::sequence({"a", inner}),
                                       Yaml::sequence({Yaml::mapping({{"x", "y"}, {"z", false}})})}));
  expected.set("plain", "one two\nthree");
  expected.set("single", "it's folded");
  expected.set("double", "tab\tA\u00e9\U0001F600\u0085 joined");
  expected.set("literal", "a\n  b\n");
  expected.set("folded", "a b\nc");
  expected.set("complex", "value");
  expected.members().emplace_back(7, "seven");
  expected.set("empty", nullptr);
  EXPECT_EQ(yaml, expected) << emit_yaml(yaml);
}

TEST(YamlParse, AnchorsMergeKeysAndSets) {
  const Yaml yaml = parse("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc:\n  <<: [{x: 5}, *a]\nd: !!set {p, q}\n");
  EXPECT_EQ(yaml.at("b"), Yaml::mapping({{"x", 1}, {"y", 3}}));
  EXPECT_EQ(yaml.at("c"), Yaml::mapping({{"x", 5}, {"y", 2}}));
  EXPECT_EQ(yaml.at("d"), Yaml::set_of({{"p", nullptr}, {"q", nullptr}}));
  EXPECT_FALSE(yaml.at("d") == Yaml::mapping({{"p", nullptr}, {"q", nullptr}}));
}

TEST(YamlParse, NamesFileLineAndColumn) {
  EXPECT_EQ(error_of("a: 1\nb: 2\na: 3\n"), "test.yaml: the key 'a' a second time at line 3, column 1");
  EXPECT_THAT(error_of("a: 'x"), HasSubstr("test.yaml: quotes that do not end at line 1, column 6"));
  EXPECT_THAT(error_of("a:\n\tb: 1"), HasSubstr("a tab where YAML wants spaces at line 2, column 1"));
  EXPECT_THAT(error_of("a: b: c"), HasSubstr("line 1, column 5"));
  EXPECT_THAT(error_of("a: *b"), HasSubstr("'b', which is not defined"));
  EXPECT_THAT(error_of("a: &a [*a]"), HasSubstr("inside the node that it names"));
  EXPECT_THAT(error_of("a: 2001-12-14"), HasSubstr("date"));
  EXPECT_THAT(error_of("[a]: 1"), HasSubstr("a key that is not a scalar"));
  EXPECT_THAT(error_of("a\n---\nb"), HasSubstr("a second document"));
  EXPECT_THAT(error_of("a: \xff"), HasSubstr("UTF-8"));
  EXPECT_THAT(error_of("a: \x01"), HasSubstr("control character"));
  EXPECT_THAT(error_of("a: [1, 2"), HasSubstr("line 1"));
  EXPECT_THAT(error_of("a: !!int x"), HasSubstr("is no int"));
}

TEST(YamlParse, RefusesObjects) {
  EXPECT_THAT(error_of("a: !!python/object/apply:os.system ['true']"), HasSubstr("python/object/apply:os.system"));
  EXPECT_THAT(error_of("a: !mine 1"), HasSubstr("!mine"));
}

TEST(YamlParse, HostileTextsEndInErrors) {
  std::string laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n", merges = "a0: &a0 {k: 1}\n";
  for (int i = 1; i < 12; ++i) {
    laughs += fmt::format("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i, i - 1);
    merges += fmt::format("a{0}: &a{0}\n  <<: [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n  k{0}: 1\n", i, i - 1);
  }
  EXPECT_THAT(error_of(laughs), HasSubstr("nodes, aliases expanded"));
  EXPECT_THAT(error_of(merges), HasSubstr("nodes, aliases expanded"));
  EXPECT_THAT(error_of("a: &a \"" + std::string(100'000, 'x') + "\"\nb: [" +
                       [] {
                         std::string all;
                         for (int i = 0; i < 1000; ++i) all += "*a, ";
                         return all;
                       }() +
                       "]"),
              HasSubstr("of text, aliases expanded"));
  for (const char* opening : {"[", "{", "- ", "? ", "[a, {b: "}) {
    std::string deep;
    for (int i = 0; i < 100'000; ++i) deep += opening;
    EXPECT_THAT(error_of(deep), HasSubstr("nested deeper than 100 levels")) << opening;
  }
  EXPECT_THAT(error_of(std::string(3u << 20, ' ')), HasSubstr("at most"));
  YamlLimits few;
  few.nodes = 100;
  EXPECT_THAT(error_of("[" + std::string(1000, ',') + "]", few), HasSubstr("line 1"));
  EXPECT_THAT(error_of("1" + std::string(5000, '0')), HasSubstr("integer of 5001 digits"));
}

TEST(YamlEmit, WritesWhatPyYamlWrites) {
  Yaml yaml = Yaml::mapping();
  yaml.set("z", 1e-5);
  yaml.set("int", 3);
  yaml.set("a", Yaml::sequence({"yes",  "1e-05",      "1.0e-05",   "",     "a: b",  "#x",         "x #y",
                                "-",    "- a",        "null",      "0x1",  "=",     "2001-01-01", " lead",
                                "it's", "don't: say", "caf\u00e9", "a\nb", "a\n b", "tab\t",      "---"}));
  yaml.set("empty", Yaml::sequence({Yaml::sequence(), Yaml::mapping(), Yaml::sequence({Yaml::sequence({1})})}));
  yaml.set("floats", Yaml::sequence({1.0, 100.0, 1e16, 1.5e-7, HUGE_VAL, -HUGE_VAL, std::nan(""), -0.0}));
  yaml.set("set", Yaml::set_of({{"q", nullptr}, {"p", nullptr}}));
  yaml.set("B", nullptr);
  EXPECT_EQ(
      emit_yaml(yaml),
      "B: null\n"
      "a:\n- 'yes'\n- 1e-05\n- '1.0e-05'\n- ''\n- 'a: b'\n- '#x'\n- 'x #y'\n- '-'\n- '- a'\n- 'null'\n- '0x1'\n"
      "- '='\n- '2001-01-01'\n- ' lead'\n- it's\n- 'don''t: say'\n- \"caf\\xE9\"\n- 'a\n\n  b'\n- \"a\\n b\"\n"
      "- \"tab\\t\"\n- '---'\n"
      "empty:\n- []\n- {}\n- - - 1\n"
      "floats:\n- 1.0\n- 100.0\n- 1.0e+16\n- 1.5e-07\n- .inf\n- -.inf\n- .nan\n- -0.0\n"
      "int: 3\n"
      "set: !!set\n  p: null\n  q: null\n"
      "z: 1.0e-05\n");
}

TEST(YamlEmit, FoldsLongStringsAsPyYamlDoes) {
  std::string words, quoted, json;
  for (int i = 0; i < 20; ++i) words += fmt::format("{}word{}", i ? " " : "", i);
  for (int i = 0; i < 20; ++i) quoted += fmt::format("{}a: b{}", i ? " " : "", i);
  for (int i = 0; i < 8; ++i) json += fmt::format("{{\n  \"key{}\": \"x\"\n}} ", i);
  Yaml yaml = Yaml::mapping({{"plain", words}, {"quoted", quoted}, {"json", json}});
  EXPECT_EQ(emit_yaml(yaml),
            R"yaml(json: "{\n  \"key0\": \"x\"\n} {\n  \"key1\": \"x\"\n} {\n  \"key2\": \"x\"\n} {\n\
  \  \"key3\": \"x\"\n} {\n  \"key4\": \"x\"\n} {\n  \"key5\": \"x\"\n} {\n  \"key6\"\
  : \"x\"\n} {\n  \"key7\": \"x\"\n} "
plain: word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 word10 word11 word12
  word13 word14 word15 word16 word17 word18 word19
quoted: 'a: b0 a: b1 a: b2 a: b3 a: b4 a: b5 a: b6 a: b7 a: b8 a: b9 a: b10 a: b11
  a: b12 a: b13 a: b14 a: b15 a: b16 a: b17 a: b18 a: b19'
)yaml");
  EXPECT_EQ(parse(emit_yaml(yaml)), yaml);
}

TEST(YamlEmit, LongKeysAndRoots) {
  const std::string key(123, 'k');
  EXPECT_EQ(emit_yaml(Yaml::mapping({{key, 1}, {"", 2}})), "? ''\n: 2\n? " + key + "\n: 1\n");
  EXPECT_EQ(emit_yaml(Yaml::mapping({{std::string(122, 'k'), 1}})), std::string(122, 'k') + ": 1\n");
  EXPECT_EQ(emit_yaml(Yaml::mapping({{10, "x"}, {9, "y"}})), "9: y\n10: x\n");
  EXPECT_EQ(emit_yaml("text"), "text\n...\n");
  EXPECT_EQ(emit_yaml("yes"), "'yes'\n");
  EXPECT_EQ(emit_yaml(Yaml::mapping()), "{}\n");
}

TEST(Yaml, AccessNamesWhatWasFound) {
  Yaml yaml = Yaml::mapping({{"layernorm", 1}, {"b", "x"}});
  EXPECT_EQ(yaml.at("layernorm").as_int(), 1);
  EXPECT_EQ(yaml.find("c"), nullptr);
  try {
    yaml.at("layernrom");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'layernorm', did you mean"));
  }
  try {
    yaml.at("b").as_int();
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("the string 'x'"));
  }
  EXPECT_FALSE(Yaml(1) == Yaml(1.0));
  EXPECT_FALSE(Yaml(0.0) == Yaml(-0.0));
  EXPECT_EQ(Yaml(std::nan("")), Yaml(std::nan("")));
  EXPECT_TRUE(yaml.erase("b"));
  EXPECT_FALSE(yaml.contains("b"));
}

}  // namespace
}  // namespace viaduct::config
