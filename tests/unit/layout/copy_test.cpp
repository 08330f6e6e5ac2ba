#include "viaduct/layout/copy.h"

#include "tests/unit/layout/random_expr.h"

namespace viaduct::layout {
namespace {

using namespace testing;  // NOLINT: the test's own helpers

// Elements of `size` bytes whose content follows from a number, so that every byte counts.
std::vector<std::byte> bytes_of(const Dense& dense, int64_t size) {
  std::vector<std::byte> result;
  for (int64_t value : dense.values)
    for (int64_t b = 0; b < size; ++b)
      result.push_back(value == 0 ? std::byte{0} : static_cast<std::byte>((value * 37 + b * 11) & 0xff));
  return result;
}

TEST(Copy, MovesEveryByteForEverySize) {
  for (uint64_t seed = 0; seed < 600; ++seed) {
    ExprMaker maker(seed);
    const Built built = maker.random(4);
    for (int64_t size : {1, 2, 4, 8, 16, 3}) {
      std::vector<std::vector<std::byte>> inputs;
      for (const Dense& value : maker.values(built.expr)) inputs.push_back(bytes_of(value, size));
      std::vector<SourceBuffer> sources;
      for (size_t i = 0; i < inputs.size(); ++i) sources.push_back({built.expr.inputs()[i].shape, inputs[i]});
      std::vector<std::byte> result(static_cast<size_t>(num_elements(built.expr.shape()) * size), std::byte{0xee});
      const TargetBuffer target{built.expr.shape(), result};
      execute_in_memory(built.expr.pieces(), sources, std::span(&target, 1), size);
      ASSERT_EQ(result, bytes_of(built.value, size)) << seed << " " << size;
    }
  }
}

TEST(Copy, RefusesWhatDoesNotFit) {
  std::vector<std::byte> a(12), b(12);
  const auto run = [&](const Piece& piece, const Shape& shape) {
    const SourceBuffer source{shape, a};
    const TargetBuffer target{{3, 4}, b};
    execute_in_memory({piece}, std::span(&source, 1), std::span(&target, 1), 1);
  };
  const Piece good{0, 0, Box::whole({3, 4}), Box::whole({3, 4}), AxisMap::identity(2)};
  EXPECT_NO_THROW(run(good, {3, 4}));
  EXPECT_THROW(run(good, {4, 3}), InternalError);
  EXPECT_THROW(run(good, {3, 5}), InternalError);
  Piece bad = good;
  bad.to.offset[1] = 1;
  EXPECT_THROW(run(bad, {3, 4}), InternalError);
  bad = good;
  bad.from.stride[0] = INT64_MAX;
  EXPECT_THROW(run(bad, {3, 4}), InternalError);
  bad = good;
  bad.from.offset[0] = -1;
  EXPECT_THROW(run(bad, {3, 4}), InternalError);
  bad = good;
  bad.source = 1;
  EXPECT_THROW(run(bad, {3, 4}), InternalError);
  bad = good;
  bad.axes[0] = 1;
  bad.axes[1] = 0;
  EXPECT_THROW(run(bad, {3, 4}), InternalError);
}

}  // namespace
}  // namespace viaduct::layout
