#include "viaduct/core/shape.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace viaduct {

Shape::Shape(std::span<const int64_t> sizes) {
  VIADUCT_USER_CHECK(sizes.size() <= kMaxRank, "a tensor with {} axes: at most {} are supported", sizes.size(),
                     kMaxRank);
  for (const int64_t size : sizes) push_back(size);
}

Shape& Shape::operator=(const Shape& other) {
  if (this == &other) return *this;
  few_ = other.few_;
  rank_ = other.rank_;
  if (!other.many_) {
    many_.reset();
  } else {
    if (!many_) many_ = std::make_unique<int64_t[]>(kMaxRank);
    std::copy_n(other.many_.get(), kMaxRank, many_.get());
  }
  return *this;
}

Shape Shape::filled(int rank, int64_t value) {
  Shape result;
  for (int i = 0; i < rank; ++i) result.push_back(value);
  return result;
}

void Shape::push_back(int64_t value) {
  VIADUCT_USER_CHECK(rank_ < kMaxRank, "a tensor with more than {} axes is not supported", kMaxRank);
  if (rank_ == kInline && !many_) {
    many_ = std::make_unique<int64_t[]>(kMaxRank);
    std::copy(few_.begin(), few_.end(), many_.get());
  }
  begin()[rank_++] = value;
}

Shape Shape::inserted(int axis, int64_t value) const {
  Shape result;
  for (int i = 0; i < axis; ++i) result.push_back((*this)[i]);
  result.push_back(value);
  for (int i = axis; i < rank_; ++i) result.push_back((*this)[i]);
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
