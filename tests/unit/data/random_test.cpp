#include "viaduct/data/random.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "tests/unit/data/drawn.h"
#include "viaduct/core/error.h"

namespace viaduct::data {
namespace {

TEST(MersenneTwister, WordsAreTheStandardLibrarys) {
  for (const uint32_t seed : {0u, 1234u, 0xffffffffu}) {
    MersenneTwister ours(seed);
    std::mt19937 theirs(seed);
    for (int i = 0; i < 2000; ++i) ASSERT_EQ(ours(), theirs()) << "word " << i << " seed " << seed;
  }
}

TEST(NumpyRandomState, OrdersAreNumpys) {
  for (const DrawnOrder& order : kNumpyPermutations)
    EXPECT_EQ(md5_of(NumpyRandomState(static_cast<int64_t>(order.seed)).permutation(order.n)), order.md5)
        << order.n << " seed " << order.seed;
  std::vector<int32_t> numbers(1000);
  std::iota(numbers.begin(), numbers.end(), 0);
  NumpyRandomState(5).shuffle(std::span(numbers));
  EXPECT_EQ(md5_of(numbers), kShuffled);
}

TEST(NumpyRandomState, ChoicesAreNumpys) {
  for (const DrawnOrder& order : kNumpyChoices)
    EXPECT_EQ(md5_of(NumpyRandomState(static_cast<int64_t>(order.seed)).choice(order.n, 100, true)), order.md5)
        << order.n << " seed " << order.seed;
  const std::vector<int64_t> all = NumpyRandomState(3).permutation(50),
                             some = NumpyRandomState(3).choice(50, 7, false);
  EXPECT_EQ(some, std::vector<int64_t>(all.begin(), all.begin() + 7));
  EXPECT_THROW(NumpyRandomState(3).choice(5, 6, false), UserError);
}

TEST(NumpyRandomState, UniformNumbersAreNumpys) {
  NumpyRandomState state(7);
  for (const double number : kUniform) EXPECT_EQ(state.uniform(), number);
}

TEST(NumpyRandomState, RefusesSeedsThatNumpyRefuses) {
  EXPECT_THROW(NumpyRandomState(-1), UserError);
  EXPECT_THROW(NumpyRandomState(int64_t{1} << 32), UserError);
}

TEST(NumpyGenerator, IntegersAreNumpys) {
  EXPECT_EQ(md5_of(NumpyGenerator(0).integers(1, 4096, 100'000)), kIntegers0);
  EXPECT_EQ(md5_of(NumpyGenerator(5).integers(1, 4096, 100'000)), kIntegers5);
  EXPECT_EQ(md5_of(NumpyGenerator((uint64_t{1} << 40) + 1).integers(1, 4096, 100'000)), kIntegers1099511627777);
}

TEST(TorchRandperm, OrdersAreTorchs) {
  for (const DrawnOrder& order : kTorchOrders)
    EXPECT_EQ(md5_of(torch_randperm(order.n, order.seed)), order.md5) << order.n << " seed " << order.seed;
}

}  // namespace
}  // namespace viaduct::data
