#include "viaduct/adapters/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"

namespace viaduct::adapters {
namespace {

struct Case {
  int64_t rows, cols, rank, first_col, right_cols, row_stride;
};

// Every kernel, every type and tiles of all alignments against the formula, element by element.
class LowRank : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { use_low_rank_kernel(GetParam()); }
  void TearDown() override { use_low_rank_kernel(low_rank_kernels().front()); }

  static float number(DType dtype, const std::byte* at) {
    float value = 0;
    convert(dtype, at, DType::kF32, reinterpret_cast<std::byte*>(&value), 1);
    return value;
  }

  void check(DType dtype, const Case& c, Rounding rounding, bool factors, float scale) {
    std::mt19937 random(static_cast<unsigned>(c.rows * 31 + c.cols * 7 + c.rank));
    std::normal_distribution<float> normal;
    std::vector<float> left(static_cast<size_t>(c.rows * c.rank)),
        right(static_cast<size_t>(c.rank * c.right_cols));
    for (float& x : left) x = normal(random);
    for (float& x : right) x = normal(random);
    const auto size = static_cast<size_t>(num_bytes(dtype, 1));
    std::vector<float> values(static_cast<size_t>(c.rows * c.row_stride)), of_rows(static_cast<size_t>(c.rows));
    for (float& x : values) x = normal(random);
    for (float& x : of_rows) x = normal(random);
    std::vector<std::byte> before(values.size() * size);
    convert(DType::kF32, reinterpret_cast<const std::byte*>(values.data()), dtype, before.data(),
            static_cast<int64_t>(values.size()));
    std::vector<std::byte> after = before;

    const PackedFactor packed(right.data(), c.rank, c.right_cols, c.right_cols, 1);
    LowRankTile tile;
    tile.weight = after.data();
    tile.row_stride = c.row_stride;
    tile.rows = c.rows;
    tile.cols = c.cols;
    tile.left = left.data();
    tile.left_stride = c.rank;
    tile.right = &packed;
    tile.first_col = c.first_col;
    std::vector<double> squares(static_cast<size_t>(c.rows));
    add_row_squares(dtype, tile, scale, squares.data());
    ASSERT_EQ(after, before);
    add_low_rank(dtype, tile, scale, rounding, factors ? of_rows.data() : nullptr);

    for (int64_t row = 0; row < c.rows; ++row) {
      double square = 0;
      for (int64_t col = 0; col < c.row_stride; ++col) {
        const auto at = static_cast<size_t>(row * c.row_stride + col);
        std::vector<std::byte> wanted(before.begin() + static_cast<int64_t>(at * size),
                                      before.begin() + static_cast<int64_t>((at + 1) * size));
        if (col < c.cols) {
          float product = 0;
          for (int64_t k = 0; k < c.rank; ++k)
            product = std::fma(left[static_cast<size_t>(row * c.rank + k)],
                               right[static_cast<size_t>(k * c.right_cols + c.first_col + col)], product);
          const float w = number(dtype, before.data() + at * size);
          const float once = std::fma(scale, product, w);
          square += static_cast<double>(once) * once;
          volatile float scaled = scale * product;  // not to be fused with the sum
          float sum = rounding == Rounding::kOnce ? once : scaled + w;
          if (factors) sum = of_rows[static_cast<size_t>(row)] * sum;
          convert(DType::kF32, reinterpret_cast<const std::byte*>(&sum), dtype, wanted.data(), 1);
        }
        ASSERT_EQ(std::memcmp(after.data() + at * size, wanted.data(), size), 0)
            << name(dtype) << " row " << row << " column " << col << " of " << c.rows << " x " << c.cols;
      }
      // Sums of squares may be taken in another order.
      ASSERT_NEAR(squares[static_cast<size_t>(row)], square, 1e-12 * square + 1e-30);
    }
  }
};

TEST_P(LowRank, IsTheFormulaForEveryTile) {
  const Case cases[] = {{1, 1, 1, 0, 1, 1},      {3, 7, 2, 0, 7, 7},         {13, 64, 8, 0, 64, 64},
                        {97, 32, 16, 0, 32, 40}, {5, 100, 33, 0, 100, 101},  {25, 90, 4, 37, 200, 90},
                        {2, 31, 1, 1, 33, 31},   {100, 129, 3, 64, 193, 130}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const Case& c : cases)
      for (const Rounding rounding : {Rounding::kOnce, Rounding::kLikePeft})
        for (const bool factors : {false, true}) check(dtype, c, rounding, factors, 1.7f);
}

TEST_P(LowRank, KeepsNaNsAndInfinities) {
  const float zero[1] = {0};
  const PackedFactor packed(zero, 1, 1, 1, 1);
  for (const uint16_t bits : {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0xffff}) {
    uint16_t weight = bits;
    LowRankTile tile{reinterpret_cast<std::byte*>(&weight), 1, 1, 1, zero, 1, &packed, 0};
    add_low_rank(DType::kBF16, tile, 1, Rounding::kOnce);
    EXPECT_EQ(std::isnan(to_float32(weight)), std::isnan(to_float32(bits))) << bits;
    EXPECT_EQ(std::isinf(to_float32(weight)), std::isinf(to_float32(bits))) << bits;
  }
}

TEST_P(LowRank, RefusesOtherTypes) {
  const float zero[1] = {0};
  const PackedFactor packed(zero, 1, 1, 1, 1);
  std::byte weight{};
  const LowRankTile tile{&weight, 1, 1, 1, zero, 1, &packed, 0};
  EXPECT_THROW(add_low_rank(DType::kF8E4M3, tile, 1, Rounding::kOnce), UserError);
}

std::vector<std::string> kernel_names() {
  const std::vector<std::string_view> names = low_rank_kernels();
  return {names.begin(), names.end()};
}

INSTANTIATE_TEST_SUITE_P(Kernels, LowRank, testing::ValuesIn(kernel_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace viaduct::adapters
