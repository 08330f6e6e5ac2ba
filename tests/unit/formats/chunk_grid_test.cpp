#include "viaduct/formats/chunk_grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "scratch_folder.h"
#include "viaduct/core/error.h"

namespace viaduct::formats {
namespace {

using testing::HasSubstr;

std::string check(const Shape& shape, std::vector<StoredChunk> chunks) {
  return error_of([&] { check_chunk_grid({"w", DType::kF32, shape, std::move(chunks)}, "index"); });
}

TEST(ChunkGrid, AcceptsWhatCoversOnce) {
  EXPECT_EQ(check({4, 6}, {{{0, 0}, {4, 6}}}), "");
  EXPECT_EQ(check({4, 6}, {{{2, 0}, {2, 6}}, {{0, 0}, {2, 6}}}), "");
  EXPECT_EQ(check({}, {{{}, {}}}), "");
  EXPECT_EQ(check({0, 3}, {}), "");
  EXPECT_EQ(check({0, 3}, {{{0, 0}, {0, 3}}}), "");
  // No grid at all: a pinwheel.
  EXPECT_EQ(
      check({3, 3}, {{{0, 0}, {1, 2}}, {{0, 2}, {2, 1}}, {{2, 1}, {1, 2}}, {{1, 0}, {2, 1}}, {{1, 1}, {1, 1}}}),
      "");
  // An empty chunk does no harm.
  EXPECT_EQ(check({2}, {{{0}, {2}}, {{1}, {0}}}), "");
}

TEST(ChunkGrid, NamesHolesAndOverlaps) {
  EXPECT_THAT(check({4, 6}, {}), HasSubstr("index: tensor w of shape [4, 6]: no chunk holds the box [0:4, 0:6]"));
  EXPECT_THAT(check({4, 6}, {{{0, 0}, {2, 6}}}), HasSubstr("no chunk holds the box [2:4, 0:6]"));
  EXPECT_THAT(check({4, 6}, {{{0, 0}, {4, 3}}, {{0, 3}, {3, 3}}}), HasSubstr("[3:4, 3:6]"));
  EXPECT_THAT(check({4}, {{{0}, {3}}, {{2}, {2}}}), HasSubstr("two chunks, [0:3] and [2:4], hold the box [2:3]"));
  EXPECT_THAT(check({4}, {{{0}, {4}}, {{0}, {4}}}), HasSubstr("two chunks"));
  EXPECT_THAT(check({4}, {{{0}, {5}}}), HasSubstr("reaches outside"));
  EXPECT_THAT(check({4}, {{{-1}, {5}}}), HasSubstr("reaches outside"));
  EXPECT_THAT(check({4}, {{{std::numeric_limits<int64_t>::max()}, {5}}}), HasSubstr("reaches outside"));
  EXPECT_THAT(check({4}, {{{0, 0}, {4, 1}}}), HasSubstr("another number of axes"));
}

// Random cuts of a tensor, then the same with one chunk taken away, moved or doubled.
TEST(ChunkGrid, RandomCuts) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    Shape shape;
    const int rank = 1 + static_cast<int>(random() % 4);
    for (int axis = 0; axis < rank; ++axis) shape.push_back(1 + random() % 9);
    std::vector<StoredChunk> chunks{{Shape::filled(rank, 0), shape}};
    for (int cut = 0; cut < 6; ++cut) {
      const size_t which = random() % chunks.size();
      const int axis = static_cast<int>(random() % static_cast<unsigned>(rank));
      if (chunks[which].size[axis] < 2) continue;
      const int64_t at = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(chunks[which].size[axis] - 1));
      StoredChunk rest = chunks[which];
      rest.offset[axis] += at;
      rest.size[axis] -= at;
      chunks[which].size[axis] = at;
      chunks.push_back(rest);
    }
    EXPECT_EQ(check(shape, chunks), "");
    const size_t which = random() % chunks.size();
    std::vector<StoredChunk> doubled = chunks;
    doubled.push_back(chunks[which]);
    EXPECT_THAT(check(shape, doubled), HasSubstr("two chunks"));
    std::vector<StoredChunk> missing = chunks;
    missing.erase(missing.begin() + static_cast<ptrdiff_t>(which));
    EXPECT_THAT(check(shape, missing), HasSubstr("no chunk holds"));
  }
}

// Very many chunks that overlap in a way that would take quadratic time: told apart within the bound.
TEST(ChunkGrid, IrregularGridsEnd) {
  std::vector<StoredChunk> chunks;
  constexpr int64_t kCount = 30'000;
  for (int64_t i = 0; i < kCount; ++i) chunks.push_back({{i, i}, {kCount, 1}});
  EXPECT_NE(check({2 * kCount, kCount}, std::move(chunks)), "");
}

}  // namespace
}  // namespace viaduct::formats
