#include "viaduct/layout/piece.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace viaduct::layout {

namespace {

using Wide = __int128;

// The indices offset + i * stride, 0 <= i < size, of one axis.
struct Progression {
  int64_t offset;
  int64_t size;
  int64_t stride;
  int64_t last() const { return offset + (size - 1) * stride; }
};

Progression along(const Box& box, int axis) { return {box.offset[axis], box.size[axis], box.stride[axis]}; }

void put(Box& box, int axis, const Progression& p) {
  box.offset[axis] = p.offset;
  box.size[axis] = p.size;
  box.stride[axis] = p.size == 1 ? 1 : p.stride;
}

// The inverse of a modulo m for coprime a and m.
int64_t inverse_modulo(int64_t a, int64_t m) {
  int64_t r0 = m, r1 = a % m, s0 = 0, s1 = 1;
  while (r1 != 0) {
    const int64_t quotient = r0 / r1;
    r0 = std::exchange(r1, r0 - quotient * r1);
    s0 = std::exchange(s1, s0 - quotient * s1);
  }
  return s0 < 0 ? s0 + m : s0;
}

std::optional<Progression> common(const Progression& a, const Progression& b) {
  if (a.size <= 0 || b.size <= 0) return std::nullopt;
  const int64_t low = std::max(a.offset, b.offset);
  const int64_t high = std::min(a.last(), b.last());
  if (low > high) return std::nullopt;
  if (a.stride == 1 && b.stride == 1) return Progression{low, high - low + 1, 1};
  const int64_t divisor = std::gcd(a.stride, b.stride);
  const int64_t distance = b.offset - a.offset;
  if (distance % divisor != 0) return std::nullopt;
  // The common indices are those x with x = a.offset (mod a.stride) and x = b.offset (mod b.stride): every
  // `step`-th from the least one that is not below `low`.
  const int64_t modulus = b.stride / divisor;
  const Wide step = Wide{a.stride} * modulus;
  Wide turns = Wide{distance / divisor} % modulus * inverse_modulo(a.stride / divisor, modulus) % modulus;
  if (turns < 0) turns += modulus;
  Wide first = Wide{a.offset} + turns * a.stride;
  if (first < low)
    first += (low - first + step - 1) / step * step;
  else
    first -= (first - low) / step * step;
  if (first > high) return std::nullopt;
  const auto size = static_cast<int64_t>((high - first) / step) + 1;
  return Progression{static_cast<int64_t>(first), size, size == 1 ? 1 : static_cast<int64_t>(step)};
}

// `piece` with its target cut down to `to`, a part of the piece's target box.
Piece cut_to(const Piece& piece, const Box& to) {
  Piece result = piece;
  result.to = to;
  for (int axis = 0; axis < to.rank(); ++axis) {
    const int source_axis = piece.axes[axis];
    if (source_axis < 0) continue;
    const int64_t skipped = (to.offset[axis] - piece.to.offset[axis]) / piece.to.stride[axis];
    const int64_t step = to.size[axis] == 1 ? 1 : to.stride[axis] / piece.to.stride[axis];
    const Progression from = along(piece.from, source_axis);
    put(result.from, source_axis, {from.offset + skipped * from.stride, to.size[axis], from.stride * step});
    if (to.size[axis] == 1) result.axes[axis] = -1;
  }
  return result;
}

}  // namespace

Box Box::dense(Shape offset, Shape size) {
  VIADUCT_CHECK_EQ(offset.rank(), size.rank());
  const int rank = size.rank();
  return {offset, size, Shape::filled(rank, 1)};
}

Box Box::whole(const Shape& shape) { return dense(Shape::filled(shape.rank(), 0), shape); }

AxisMap AxisMap::identity(int rank) {
  AxisMap map;
  for (int axis = 0; axis < rank; ++axis) map[axis] = static_cast<int8_t>(axis);
  return map;
}

AxisMap AxisMap::inverse(int target_rank) const {
  AxisMap map;
  for (int axis = 0; axis < target_rank; ++axis)
    if (axes_[axis] >= 0) map[axes_[axis]] = static_cast<int8_t>(axis);
  return map;
}

Piece inverse(const Piece& piece) {
  return {piece.target, piece.source, piece.to, piece.from, piece.axes.inverse(piece.to.rank())};
}

Pieces inverse(const Pieces& pieces) {
  Pieces result;
  result.reserve(pieces.size());
  for (const Piece& piece : pieces) result.push_back(inverse(piece));
  return result;
}

std::string to_string(const Box& box) {
  std::string text = "[";
  for (int axis = 0; axis < box.rank(); ++axis) {
    const Progression p = along(box, axis);
    fmt::format_to(std::back_inserter(text), "{}{}:{}", axis == 0 ? "" : ", ", p.offset,
                   p.size <= 0 ? p.offset : static_cast<int64_t>(Wide{p.offset} + Wide{p.size - 1} * p.stride + 1));
    if (p.size > 1 && p.stride != 1) fmt::format_to(std::back_inserter(text), ":{}", p.stride);
  }
  return text + "]";
}

std::string to_string(const Piece& piece) {
  return fmt::format("{} -> {}",
                     piece.is_fill() ? "zero" : fmt::format("tensor {} {}", piece.source, to_string(piece.from)),
                     piece.is_drop() ? "nothing" : fmt::format("tensor {} {}", piece.target, to_string(piece.to)));
}

std::optional<Box> intersect(const Box& a, const Box& b) {
  VIADUCT_CHECK_EQ(a.rank(), b.rank(), "boxes of one tensor");
  Box result = a;
  for (int axis = 0; axis < a.rank(); ++axis) {
    const std::optional<Progression> part = common(along(a, axis), along(b, axis));
    if (!part) return std::nullopt;
    put(result, axis, *part);
  }
  return result;
}

std::vector<Box> subtract(const Box& a, const Box& b) {
  const std::optional<Box> both = intersect(a, b);
  if (!both) return {a};
  std::vector<Box> result;
  Box rest = a;  // narrowed to `both` axis by axis; what is cut off on the way is kept
  const auto keep = [&](int axis, const Progression& p) {
    if (p.size <= 0) return;
    Box part = rest;
    put(part, axis, p);
    result.push_back(part);
  };
  for (int axis = 0; axis < a.rank(); ++axis) {
    const Progression whole = along(rest, axis);
    const Progression taken = along(*both, axis);
    const int64_t before = (taken.offset - whole.offset) / whole.stride;
    const int64_t last = (taken.last() - whole.offset) / whole.stride;
    const int64_t step = taken.size == 1 ? 1 : taken.stride / whole.stride;
    keep(axis, {whole.offset, before, whole.stride});
    for (int64_t i = 1; i < step; ++i) keep(axis, {taken.offset + i * whole.stride, taken.size - 1, taken.stride});
    keep(axis, {taken.last() + whole.stride, whole.size - 1 - last, whole.stride});
    put(rest, axis, taken);
  }
  return result;
}

std::optional<Piece> restrict_target(const Piece& piece, const Box& box) {
  if (piece.is_drop()) return std::nullopt;
  const std::optional<Box> to = intersect(piece.to, box);
  if (!to) return std::nullopt;
  return cut_to(piece, *to);
}

std::optional<Piece> restrict_source(const Piece& piece, const Box& box) {
  if (piece.is_fill()) return std::nullopt;
  const std::optional<Box> from = intersect(piece.from, box);
  if (!from) return std::nullopt;
  return inverse(cut_to(inverse(piece), *from));
}

}  // namespace viaduct::layout
