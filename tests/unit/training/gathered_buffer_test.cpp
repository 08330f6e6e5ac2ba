#include "viaduct/training/gathered_buffer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace viaduct::training {
namespace {

using ::testing::ElementsAre;

// The last parameter lies first, each begins at a multiple of 64 elements.
TEST(GatheredBuffer, OneBucket) {
  const std::vector<BufferedParameter> parameters{{100}, {1}, {64}};
  const BufferPlaces places = gathered_places(parameters, std::nullopt);
  EXPECT_THAT(places.begins, ElementsAre(128, 64, 0));
  EXPECT_EQ(places.length, 228);
}

// The padding at a bucket's end is not gathered, so that what follows begins where it likes.
TEST(GatheredBuffer, BucketsFollowEachOtherWithoutPadding) {
  const std::vector<BufferedParameter> parameters{{100}, {10}, {70}, {30}};
  const BufferPlaces places = gathered_places(parameters, 100);
  EXPECT_THAT(places.begins, ElementsAre(198, 134, 64, 0));
  EXPECT_EQ(places.length, 298);
  EXPECT_THAT(gathered_places(parameters, std::nullopt).begins, ElementsAre(256, 192, 64, 0));
}

// An embedding that two stages share has a bucket of its own; the one before it keeps the padding up to it.
TEST(GatheredBuffer, SharedEmbeddingsAreAlone) {
  const std::vector<BufferedParameter> first{{100, true}, {10}, {70}}, last{{70}, {10}, {100, true}};
  EXPECT_THAT(gathered_places(first, std::nullopt).begins, ElementsAre(192, 128, 0));
  EXPECT_EQ(gathered_places(first, std::nullopt).length, 292);
  EXPECT_THAT(gathered_places(last, std::nullopt).begins, ElementsAre(164, 100, 0));
  EXPECT_EQ(gathered_places(last, std::nullopt).length, 234);
  EXPECT_EQ(gathered_places({}, std::nullopt).length, 0);
}

}  // namespace
}  // namespace viaduct::training
