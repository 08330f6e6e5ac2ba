// The loops of a move, for the code that copies what it says.
#pragma once

#include <cstddef>
#include <cstring>

#include "viaduct/bridge/move.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

/// Calls visit(target byte, source position) for every combination of the axes that `used` does not name by its
/// bits.
template <class Visit>
void for_each_outer(const Move& move, uint32_t used, Visit&& visit) {
  std::array<int, Shape::kMaxRank + 1> outer{};
  std::array<int64_t, Shape::kMaxRank + 1> index{};
  int count = 0;
  for (int a = move.rank; a-- > 0;)
    if (!(used >> a & 1)) outer[count++] = a;  // the inner ones turn first
  int64_t target = move.target, source = move.source;
  while (true) {
    visit(target, source);
    int k = 0;
    for (; k < count; ++k) {
      const MoveAxis& axis = move.axes[outer[k]];
      target += axis.target_step;
      source += axis.source_step;
      if (++index[k] < axis.count) break;
      target -= axis.count * axis.target_step;
      source -= axis.count * axis.source_step;
      index[k] = 0;
    }
    if (k == count) return;
  }
}

/// The axis; for -1 one of a single step.
inline MoveAxis axis_or_single(const Move& move, int axis) {
  return axis < 0 ? MoveAxis{1, 0, 0} : move.axes[axis];
}

/// The axis along which the source's elements lie closest, -1 for a single element.
inline int nearest_source_axis(const Move& move) {
  int nearest = -1;
  for (int a = 0; a < move.rank; ++a)
    if (nearest < 0 || move.axes[a].source_step <= move.axes[nearest].source_step) nearest = a;
  return nearest;
}

/// Copies `count` elements of `kSize` bytes from one place each `from_step` bytes to one each `to_step`.
template <size_t kSize>
void copy_strided(const std::byte* from, int64_t from_step, std::byte* to, int64_t to_step, int64_t count) {
  for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * to_step, from + i * from_step, kSize);
}

/// The same for a size of 1, 2, 4, 8 or 16 bytes.
inline void copy_strided(int size, const std::byte* from, int64_t from_step, std::byte* to, int64_t to_step,
                         int64_t count) {
  switch (size) {
    case 1: return copy_strided<1>(from, from_step, to, to_step, count);
    case 2: return copy_strided<2>(from, from_step, to, to_step, count);
    case 4: return copy_strided<4>(from, from_step, to, to_step, count);
    case 8: return copy_strided<8>(from, from_step, to, to_step, count);
    case 16: return copy_strided<16>(from, from_step, to, to_step, count);
    default: VIADUCT_CHECK(false, "elements of {} bytes", size);
  }
}

}  // namespace viaduct::bridge
