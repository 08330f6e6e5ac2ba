#include "viaduct/infer/stop_strings.h"

#include <gtest/gtest.h>

#include "viaduct/core/error.h"

namespace viaduct::infer {
namespace {

// What is shown of a text that comes in pieces of `size` bytes.
std::string shown(StopStrings stop, const std::string& text, size_t size) {
  std::string result;
  for (size_t at = 0; at < text.size() && !stop.stopped(); at += size) result += stop.push(text.substr(at, size));
  return stop.stopped() ? result : result + stop.finish();
}

TEST(StopStrings, EndBeforeTheFirstHoweverTheTextComes) {
  const std::string text = "one\n\nUser: two END three";
  for (size_t size = 1; size <= text.size(); ++size) {
    EXPECT_EQ(shown(StopStrings({"END", "\n\nUser:"}), text, size), "one") << size;
    EXPECT_EQ(shown(StopStrings({"END"}), text, size), "one\n\nUser: two ") << size;
    EXPECT_EQ(shown(StopStrings({"ENDE", "threee"}), text, size), text) << size;
    EXPECT_EQ(shown(StopStrings({}), text, size), text) << size;
  }
}

TEST(StopStrings, HoldBackOnlyWhatCouldBegin) {
  StopStrings stop({"aab"});
  EXPECT_EQ(stop.push("xaa"), "x");
  EXPECT_EQ(stop.push("a"), "a");
  EXPECT_EQ(stop.push("c"), "aac");
  EXPECT_EQ(stop.push("aa"), "");
  EXPECT_EQ(stop.push("b and more"), "");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.push("late"), "");
}

TEST(StopStrings, AnEmptyOneIsRefused) { EXPECT_THROW(StopStrings({"a", ""}), UserError); }

}  // namespace
}  // namespace viaduct::infer
