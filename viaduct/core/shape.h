// Shape: the sizes (or offsets, or strides) along the axes of a tensor, at most 8 of them. Up to 4, which nearly
// all have, are stored inline: a plan holds a million shapes.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "viaduct/core/error.h"

namespace viaduct {

/// Up to kMaxRank numbers with value semantics.
class Shape {
 public:
  /// The most axes that a tensor may have.
  static constexpr int kMaxRank = 8;

  Shape() = default;
  Shape(const Shape& other) { *this = other; }
  Shape(Shape&& other) noexcept { *this = std::move(other); }
  Shape& operator=(const Shape& other);
  Shape& operator=(Shape&& other) noexcept {
    few_ = other.few_;
    many_ = std::move(other.many_);
    rank_ = std::exchange(other.rank_, int8_t{0});
    return *this;
  }
  ~Shape() = default;
  /// These sizes; UserError for more than kMaxRank.
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  /// These sizes; UserError for more than kMaxRank.
  explicit Shape(std::span<const int64_t> sizes);
  /// `rank` axes that all hold `value`.
  static Shape filled(int rank, int64_t value);

  /// The number of axes.
  int rank() const { return rank_; }
  /// True for rank 0, the shape of a scalar.
  bool empty() const { return rank_ == 0; }
  /// The size (offset, stride) along an axis, which is not checked.
  int64_t& operator[](int axis) { return begin()[axis]; }
  /// The size (offset, stride) along an axis, which is not checked.
  int64_t operator[](int axis) const { return begin()[axis]; }

  /// The numbers as a range; valid until the shape changes.
  int64_t* begin() { return many_ ? many_.get() : few_.data(); }
  int64_t* end() { return begin() + rank_; }
  const int64_t* begin() const { return many_ ? many_.get() : few_.data(); }
  const int64_t* end() const { return begin() + rank_; }
  /// Appends an axis; UserError for more than kMaxRank.
  void push_back(int64_t value);
  /// A copy with `value` put before axis `axis`.
  Shape inserted(int axis, int64_t value) const;

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    return std::equal(a.begin(), a.end(), b.begin());
  }

 private:
  static constexpr int kInline = 4;
  std::array<int64_t, kInline> few_{};
  std::unique_ptr<int64_t[]> many_;  // all of them, room for kMaxRank, once there are more than kInline
  int8_t rank_ = 0;
};

/// Number of elements, 1 for rank 0. UserError when a size is negative or the product does not fit in 63 bits.
int64_t num_elements(const Shape& shape);

/// Row-major strides in elements: the last axis has stride 1.
Shape row_major_strides(const Shape& shape);

/// "[2, 3]"
std::string to_string(const Shape& shape);

}  // namespace viaduct

/// Formats as to_string(shape).
template <>
struct fmt::formatter<viaduct::Shape> : fmt::formatter<std::string> {
  auto format(const viaduct::Shape& shape, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(viaduct::to_string(shape), context);
  }
};
