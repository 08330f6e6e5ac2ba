#include "viaduct/core/shape.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace viaduct {

Shape::Shape(std::span<const int64_t> sizes) {
  VIADUCT_USER_CHECK(sizes.size() <= kMaxRank, "a tensor with {} axes: at most {} are supported", sizes.size(),
                     kMaxRank);
  std::copy(sizes.begin(), sizes.end(), values_.begin());
  rank_ = static_cast<int8_t>(sizes.size());
}

Shape Shape::filled(int rank, int64_t value) {
  Shape result;
  for (int i = 0; i < rank; ++i) result.push_back(value);
  return result;
}

void Shape::push_back(int64_t value) {
  VIADUCT_USER_CHECK(rank_ < kMaxRank, "a tensor with more than {} axes is not supported", kMaxRank);
  values_[rank_++] = value;
}

Shape Shape::inserted(int axis, int64_t value) const {
  Shape result;
  for (int i = 0; i < axis; ++i) result.push_back(values_[i]);
  result.push_back(value);
  for (int i = axis; i < rank_; ++i) result.push_back(values_[i]);
  return result;
}

int64_t num_elements(const Shape& shape) {
  // A zero anywhere makes the product zero, whatever the order of the axes.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t count = 1;
  for (int64_t size : shape) {
    VIADUCT_USER_CHECK(size > 0 && !__builtin_mul_overflow(count, size, &count),
                       "shape {} has a negative size or more elements than fit in 63 bits", shape);
  }
  return count;
}

Shape row_major_strides(const Shape& shape) {
  Shape strides = Shape::filled(shape.rank(), 1);
  for (int axis = shape.rank() - 2; axis >= 0; --axis)
    strides[axis] = strides[axis + 1] * std::max<int64_t>(shape[axis + 1], 1);
  return strides;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace viaduct
