#include "viaduct/core/strings.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct {
namespace {

TEST(Strings, SizesAndTimes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.00 kB");
  EXPECT_EQ(human_bytes(2'471'645'608), "2.47 GB");
  EXPECT_EQ(human_bytes(999'600), "1.00 MB");
  EXPECT_EQ(human_bytes(678'139'977'792), "678 GB");
  EXPECT_EQ(human_seconds(0.0042), "4 ms");
  EXPECT_EQ(human_seconds(1.304), "1.30 s");
  EXPECT_EQ(human_seconds(59.96), "60.0 s");
  EXPECT_EQ(human_seconds(125), "2 min 05 s");
  EXPECT_EQ(human_seconds(7260), "2 h 01 min");
}

TEST(Strings, Patterns) {
  const int64_t numbers[] = {3, 12};
  EXPECT_EQ(fill_pattern("layers.*.experts.*.w", numbers), "layers.3.experts.12.w");
  EXPECT_THROW(fill_pattern("layers.*", numbers), InternalError);
  EXPECT_THROW(fill_pattern("*.*.*", numbers), InternalError);
}

TEST(Strings, Nearest) {
  const std::vector<std::string> names = {"tensor_model_parallel_size", "pipeline_model_parallel_size", "seed"};
  EXPECT_EQ(nearest("tensor_model_paralel_size", names), "tensor_model_parallel_size");
  EXPECT_EQ(nearest("sed", names), "seed");
  EXPECT_EQ(nearest("learning_rate", names), std::nullopt);
  EXPECT_EQ(nearest("x", {}), std::nullopt);
}

TEST(Strings, Utf8) {
  for (const char* text :
       {"", "ascii", "ü", "日本語", "\xF0\x9F\x8E\x89", "\xED\x9F\xBF", "\xEE\x80\x80", "\xF4\x8F\xBF\xBF"})
    EXPECT_TRUE(is_utf8(text)) << text;
  // A lone continuation, cut sequences, overlong forms, surrogates, beyond U+10FFFF.
  for (const char* text :
       {"\x80", "\xC3", "a\xC3(", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE2\x82", "\xED\xA0\x80",
        "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xF0\x9F\x8E"})
    EXPECT_FALSE(is_utf8(text)) << testing::PrintToString(std::string(text));
}

TEST(Strings, NaturalOrder) {
  std::vector<std::string> names = {"m-10", "m-9", "m-009b", "m", "m-9-2", "m-100", "a20", "m-1"};
  std::sort(names.begin(), names.end(), natural_less);
  EXPECT_EQ(names, (std::vector<std::string>{"a20", "m", "m-1", "m-9", "m-9-2", "m-009b", "m-10", "m-100"}));
  // Equal values with other leading zeros are still two names.
  EXPECT_NE(natural_less("m-09", "m-9"), natural_less("m-9", "m-09"));
}

}  // namespace
}  // namespace viaduct
