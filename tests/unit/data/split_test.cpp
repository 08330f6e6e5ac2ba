#include "viaduct/data/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/data/drawn.h"
#include "viaduct/core/error.h"
#include "viaduct/data/build.h"
#include "viaduct/data/config.h"

namespace viaduct::data {
namespace {

using ::testing::ElementsAre;
using ::testing::Optional;
using ::testing::Pair;

TEST(Split, SumsAreNumpys) {
  for (const Sum& sum : kSums) {
    std::vector<double> numbers;
    for (int64_t i = 0; i < sum.n; ++i) numbers.push_back(1 / (static_cast<double>(i) + 3.0));
    EXPECT_EQ(numpy_sum(numbers), sum.sum) << sum.n;
  }
}

TEST(Split, TextsBecomeParts) {
  EXPECT_THAT(parse_split("8,1,1"),
              ElementsAre(Optional(Pair(0.0, 0.8)), Optional(Pair(0.8, 0.9)), Optional(Pair(0.9, 1.0))));
  EXPECT_THAT(parse_split("99/1"), ElementsAre(Optional(Pair(0.0, 0.99)), Optional(Pair(0.99, 1.0)), std::nullopt));
  EXPECT_THAT(parse_split("0,.5,0"), ElementsAre(std::nullopt, Optional(Pair(0.0, 1.0)), std::nullopt));
  for (const char* text : {"", "a,b", "0,0,0", "1,2,3,4", "1..2"})
    EXPECT_THROW(parse_split(text), UserError) << text;
}

TEST(Split, HalvesGoToTheEvenNeighbour) {
  EXPECT_THAT(split_range({0.0, 0.5}, 5), Pair(0, 2));
  EXPECT_THAT(split_range({0.5, 1.0}, 7), Pair(4, 7));
}

TEST(Split, SharesOfABlend) {
  EXPECT_EQ(samples_of_share(200, 0.7, 0.0), 140);
  EXPECT_EQ(samples_of_share(200, 0.7, 0.005), 141);
  EXPECT_EQ(samples_of_share(0, 0.7, 0.005), 0);
}

TEST(Split, BlendsOfACommandLine) {
  const Blend weighted = blend_from_list({"30", "a", "70", " b "});
  EXPECT_THAT(weighted.paths, ElementsAre("a", "b"));
  EXPECT_THAT(weighted.weights, Optional(ElementsAre(30.0, 70.0)));
  const Blend plain = blend_from_list({"a", "b"});
  EXPECT_THAT(plain.paths, ElementsAre("a", "b"));
  EXPECT_FALSE(plain.weights);
  EXPECT_THROW(blend_from_list({"30", "a", "b", "c"}), UserError);
}

TEST(GPTDatasetConfig, ContradictionsAreNamed) {
  GPTDatasetConfig config;
  config.sequence_length = 8;
  EXPECT_TRUE(config.mock());
  const auto problem = [&] {
    try {
      config.validate();
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(problem(), testing::HasSubstr("vocabulary"));
  config.blend = Blend{{"a", "b"}, {{1.0}}};
  EXPECT_THAT(problem(), testing::HasSubstr("dataset.split"));
  config.split = "1";
  EXPECT_THAT(problem(), testing::HasSubstr("one weight a path"));
  config.blend->weights = {1.0, 0.0};
  EXPECT_THAT(problem(), testing::HasSubstr("weight of b"));
  config.blend->weights = std::nullopt;
  EXPECT_EQ(problem(), "");
  config.fast_cache_load = true;
  EXPECT_THAT(problem(), testing::HasSubstr("path_to_cache"));
}

}  // namespace
}  // namespace viaduct::data
