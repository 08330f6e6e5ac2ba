// Timers of one process: which are measured, and upstream's lines about them.
#include "viaduct/parallel/timers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "viaduct/core/error.h"

namespace viaduct::parallel {
namespace {

using ::testing::MatchesRegex;

Timers timers(int64_t level, std::string_view option = "minmax") {
  return {level, timing_option_named(option), Group(), at::kCPU};
}

void spend(Timers& timers, std::string_view name, int64_t level) {
  const Timing timing(&timers, name, level, /*barrier=*/true);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

constexpr std::string_view kNames[] = {"forward-backward", "all-grads-sync", "forward-compute"};

TEST(Timers, LinesAreUpstreams) {
  const std::pair<const char*, const char*> kCases[] = {
      {"max", "max time across ranks \\(ms\\):\n    forward-backward \\.{31}: [0-9]+\\.[0-9][0-9]"},
      {"minmax",
       "\\(min, max\\) time across ranks \\(ms\\):\n    forward-backward \\.{31}: \\([0-9]+\\.[0-9][0-9], "
       "[0-9]+\\.[0-9][0-9]\\)"},
      {"all", "times across ranks \\(ms\\):\n  forward-backward:\n     rank  0: [0-9]+\\.[0-9][0-9]"},
  };
  for (const auto& [option, expected] : kCases) {
    Timers all = timers(1, option);
    spend(all, "forward-backward", 1);
    spend(all, "forward-compute", 2);
    const std::optional<std::string> lines = all.lines(kNames, true);
    ASSERT_TRUE(lines) << option;
    EXPECT_THAT(*lines, MatchesRegex(expected)) << option;
    EXPECT_FALSE(all.lines(kNames, true)) << "nothing since then";
  }
  EXPECT_THROW(timing_option_named("min"), UserError);
}

TEST(Timers, EachReaderIsToldTheWhole) {
  Timers all = timers(2);
  for (int i = 0; i < 2; ++i) {
    spend(all, "forward-compute", 2);
    spend(all, "forward-compute", 2);
    all.end_iteration();
  }
  EXPECT_TRUE(all.lines(kNames, true));
  const std::map<std::string, double> seconds = all.slowest(kNames);
  ASSERT_EQ(seconds.size(), 1u);
  EXPECT_GE(seconds.at("forward-compute"), 0.004);  // of an iteration
  EXPECT_TRUE(all.slowest(kNames).empty());
}

TEST(Timers, WhatIsNotMeasuredLeavesNothing) {
  Timers none = timers(-1);
  spend(none, "evaluate", 0);
  none.stop("evaluate");
  EXPECT_FALSE(none.lines(kNames, false));
  Timers all = timers(1);
  EXPECT_THROW(
      {
        const Timing timing(&all, "optimizer", 1);
        throw std::runtime_error("an error");
      },
      std::runtime_error);
  constexpr std::string_view kOptimizer[] = {"optimizer"};
  EXPECT_FALSE(all.lines(kOptimizer, false));
  all.start("optimizer", 1);  // it does not run any more
  EXPECT_THROW(all.start("optimizer", 1), InternalError);
  const Timing nothing(nullptr, "optimizer", 1);
}

}  // namespace
}  // namespace viaduct::parallel
