#include "viaduct/core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace viaduct {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string error_of(std::string_view text) {
  try {
    Json::parse(text, "config.json");
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(Json, KeepsOrderNumberTextAndUnknownKeys) {
  // What Python's json.dumps(value, indent=2, ensure_ascii=False) gives for the same text.
  const std::string text = R"({
  "z": 1.0e-05,
  "a": [
    1,
    -0,
    2.50,
    Infinity,
    -Infinity,
    NaN,
    18446744073709551616
  ],
  "": {},
  "empty": [],
  "ü\"\\\n\u0001": true,
  "nested": {
    "null": null
  }
})";
  EXPECT_EQ(Json::parse(text, "test").dump(2), text);
  EXPECT_EQ(Json::parse(" [1 ,{\"a\":[]}, \"b\"]\n", "test").dump(), R"([1, {"a": []}, "b"])");
  EXPECT_EQ(Json::parse("\xEF\xBB\xBF{}", "test").dump(), "{}");
}

TEST(Json, WritesNumbersAsPythonDoes) {
  const std::pair<double, const char*> cases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {0.1, "0.1"},
      {1e-05, "1e-05"},
      {1.0000000000000002, "1.0000000000000002"},
      {123456789.123, "123456789.123"},
      {1e+16, "1e+16"},
      {9999999999999998.0, "9999999999999998.0"},
      {1000000000000000.0, "1000000000000000.0"},
      {0.0001, "0.0001"},
      {1.234e-05, "1.234e-05"},
      {5e-324, "5e-324"},
      {1.7976931348623157e+308, "1.7976931348623157e+308"},
      {-2.5, "-2.5"},
      {1e+22, "1e+22"},
      {1.2345678901234568e+17, "1.2345678901234568e+17"},
      {0.02, "0.02"},
      {1e-06, "1e-06"},
      {500000.0, "500000.0"},
      {3.4028234663852886e+38, "3.4028234663852886e+38"},
      {1.1754943508222875e-38, "1.1754943508222875e-38"},
  };
  for (const auto& [value, text] : cases) {
    EXPECT_EQ(python_repr(value), text);
    EXPECT_EQ(Json(value).dump(), text);
    EXPECT_EQ(Json::parse(text, "test").as_double(), value);
  }
  EXPECT_EQ(Json(HUGE_VAL).dump(), "Infinity");
  EXPECT_EQ(Json(-HUGE_VAL).dump(), "-Infinity");
  EXPECT_EQ(Json(std::nan("")).dump(), "NaN");
}

TEST(Json, Values) {
  const Json json = Json::parse(
      R"({"i": 3, "whole": 3.0, "f": 2.5, "e": 1e2, "big": 9223372036854775807, "bigger": 9223372036854775808,
                                   "inf": Infinity, "nan": NaN, "s": "\u00e9\ud83c\udf89\/", "b": false, "tiny": 1e-400})",
      "test");
  EXPECT_EQ(json.at("i").as_int(), 3);
  EXPECT_TRUE(json.at("i").is_integer());
  EXPECT_EQ(json.at("whole").as_int(), 3);
  EXPECT_FALSE(json.at("whole").is_integer());
  EXPECT_EQ(json.at("e").as_int(), 100);
  EXPECT_THROW(json.at("f").as_int(), UserError);
  EXPECT_EQ(json.at("big").as_int(), INT64_MAX);
  EXPECT_THROW(json.at("bigger").as_int(), UserError);
  EXPECT_THROW(json.at("inf").as_int(), UserError);
  EXPECT_EQ(json.at("bigger").as_double(), 9223372036854775808.0);
  EXPECT_EQ(json.at("inf").as_double(), HUGE_VAL);
  EXPECT_TRUE(std::isnan(json.at("nan").as_double()));
  EXPECT_EQ(json.at("tiny").as_double(), 0.0);
  EXPECT_EQ(json.at("s").as_string(), "é🎉/");
  EXPECT_THROW(json.at("s").as_bool(), UserError);
  EXPECT_THROW(json.at("b").as_string(), UserError);
  EXPECT_THROW(json.at("b").items(), UserError);
  EXPECT_THROW(json.at("i").find("x"), UserError);
  EXPECT_EQ(json.find("absent"), nullptr);
  try {
    json.at("absent");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("absent"));
  }
}

TEST(Json, Changes) {
  Json json = Json::parse(R"({"a": 1, "b": 2, "c": 3})", "test");
  json.set("b", "two");
  json.set("d", Json::array({1, nullptr}));
  EXPECT_TRUE(json.erase("a"));
  EXPECT_FALSE(json.erase("a"));
  EXPECT_EQ(json.dump(), R"({"b": "two", "c": 3, "d": [1, null]})");
}

TEST(Json, EqualityIsByValue) {
  const auto parse = [](const char* text) { return Json::parse(text, "test"); };
  EXPECT_EQ(parse(R"({"a": 1, "b": [1.0]})"), parse(R"({"b": [1e0], "a": 1})"));
  EXPECT_FALSE(parse("1.0") == parse("1"));
  EXPECT_FALSE(parse("[1, 2]") == parse("[2, 1]"));
  EXPECT_FALSE(parse(R"({"a": 1})") == parse(R"({"a": 1, "b": 2})"));
  EXPECT_FALSE(parse(R"("1")") == parse("1"));
  EXPECT_EQ(parse("NaN"), parse("NaN"));
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* text :
       {"", "{", "[1,]", "{\"a\":}", "{'a': 1}", "nul", "01", "1.", "+1", "\"\\x\"", "\"a", "[1] 2", "{\"a\" 1}",
        "\"\x01\"", "\"\\ud800\"", "\"\\udc00\"", "{\"\\udc00\": 1}", "\"\\ud800\\u0041\""})
    EXPECT_THAT(error_of(text), AllOf(HasSubstr("config.json"), HasSubstr("byte"))) << text;
  EXPECT_THAT(error_of("[\"\xFF\"]"), HasSubstr("UTF-8"));
  EXPECT_THAT(error_of(R"({"a": {"k": 1, "k": 2}})"), AllOf(HasSubstr("\"k\""), HasSubstr("twice")));
}

TEST(Json, NestingIsBounded) {
  EXPECT_EQ(error_of(std::string(256, '[') + std::string(256, ']')), "");
  EXPECT_THAT(error_of(std::string(257, '[') + std::string(257, ']')), HasSubstr("deeper than 256"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(error_of(objects), HasSubstr("deeper than 256"));
}

}  // namespace
}  // namespace viaduct
