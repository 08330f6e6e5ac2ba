// W + s L R for tiles of a weight, L and R being thin: what merging an adapter is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "viaduct/core/dtype.h"

namespace viaduct::adapters {

/// The second factor [rank, cols], packed for the kernel.
class PackedFactor {
 public:
  PackedFactor() = default;
  /// Element (k, c) is numbers[k * k_stride + c * c_stride].
  PackedFactor(const float* numbers, int64_t rank, int64_t cols, int64_t k_stride, int64_t c_stride);

  /// Its numbers of rows and columns.
  int64_t rank() const { return rank_; }
  int64_t cols() const { return cols_; }

  /// Columns [panel * width(), ...) of all rows k, one row behind the other, filled up with zeros.
  const float* panel(int64_t panel) const { return panels_.data() + panel * rank_ * width(); }
  /// Memory of the packed numbers.
  size_t bytes() const { return panels_.size() * sizeof(float); }
  /// Columns of a panel on this processor.
  static int64_t width();

 private:
  int64_t rank_ = 0, cols_ = 0;
  std::vector<float> panels_;
};

/// A tile of a row-major weight and the factors' part that changes it.
struct LowRankTile {
  std::byte* weight = nullptr;  // element (0, 0) of the tile
  int64_t row_stride = 0;       // in elements
  int64_t rows = 0, cols = 0;
  const float* left = nullptr;  // row i is left + i * left_stride, `rank` numbers
  int64_t left_stride = 0;
  const PackedFactor* right = nullptr;
  int64_t first_col = 0;  // of `right`, that column 0 of the tile is
};

/// Where a sum is rounded on its way to the weight's type.
enum class Rounding {
  kOnce,      // fma(scale, product, w), rounded once to the weight's type
  kLikePeft,  // product * scale is rounded to float32 before it is added
};

/// weight += scale * left * right; every product is a chain of fused multiply-adds in the order of k, from 0, so
/// that the numbers are the same on every processor. `row_factors`: nullptr, or what each row of the sum is
/// multiplied by before it is rounded (DoRA). UserError for a type that is not float32, bfloat16 or float16.
void add_low_rank(DType dtype, const LowRankTile& tile, float scale, Rounding rounding,
                  const float* row_factors = nullptr);
/// sums[i] += the squares of row i of weight + scale * left * right, in float64; the weight stays as it is.
void add_row_squares(DType dtype, const LowRankTile& tile, float scale, double* sums);

/// The kernels that this processor runs, the one that is used first; all give the same bits.
std::vector<std::string_view> low_rank_kernels();
/// For tests: uses another one from now on. Factors that were packed before fit no longer.
void use_low_rank_kernel(std::string_view name);

/// Is the type one that the above know?
bool can_add_low_rank(DType dtype);

}  // namespace viaduct::adapters
